"""RRS, Restoration-200k: Chinese conversations whose test candidates were retrieved and judged by people.

Source   https://github.com/gmftbyGMFTBY/SimpleReDial-v1
Licence  none is stated
Paper    Lan et al. 2021, https://arxiv.org/abs/2110.06612; the conversations are those of Pan et al. 2019
Sizes    as the files have them
Format   see tabs.py; Chinese in words parted by spaces, which are taken out
Eval     the candidates of the file, 10 in test, any number of them right; contexts whose candidates are all right or
         all wrong are left out, as in Douban
Context  every turn, oldest first

Variant `graded`: the fine-grained test set, three files by three judges, each of which grades 7 candidates of a
context (0 is the worst); test alone. Right is what a judge grades best, NDCG is of the grades. The names of its files
are those that the authors' code reads; what it reports of them is no NDCG but Kendall's weighted tau.
"""

from poly_agents.tasks import variant
from poly_agents.tasks.response import Example
from poly_agents.tasks.tabs import TabsTeacher

WHERE = (
    "https://github.com/gmftbyGMFTBY/SimpleReDial-v1 links to its data; of the folder restoration-200k, train.txt, "
    "valid.txt (or dev.txt) and test.txt are read, of graded fg-JUDGE-test.txt (brandenwang, lt, lt2)"
)


JUDGES = ("brandenwang", "lt", "lt2")


class RrsTeacher(TabsTeacher):
    """`-t poly_agents:rrs`, `-t poly_agents:rrs:graded`"""

    sizes = {"test": 10}
    judged = True
    segmented = True

    def read(self, split):
        if not variant(self.opt["task"], ("", "graded")):
            yield from super().read(split)
            return
        if split != "test":
            raise ValueError("rrs:graded is a test set alone; use -dt test, or the task rrs")
        self.sizes, self.labels = {"test": 7}, "0123456789"
        for path in (self.path(f"fg-{judge}-test.txt") for judge in JUDGES):
            for number, rows in enumerate(self.contexts(path, split), 1):
                context, best = rows[0].context, max(row.grade for row in rows)
                if len(rows) != 7 or not best:
                    reason = f"7 candidates expected, got {len(rows)}" if best else "no candidate is graded above 0"
                    self.bad_context(path, number, context, reason)
                    continue
                response, *others = (row.candidate for row in rows if row.grade == best)
                grades = [float(row.grade) for row in rows]
                yield Example(context, response, [row.candidate for row in rows], others, grades)
