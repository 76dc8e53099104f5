"""RRS, Restoration-200k: Chinese conversations whose test candidates were retrieved and judged by people.

Source   https://github.com/gmftbyGMFTBY/SimpleReDial-v1, which links to the Google Drive folder
         https://drive.google.com/drive/folders/1EcjrkDnx8mSZlGum0dQHYJGDyUMEEwBz
Licence  none is stated for the data; the code is MIT
Paper    Lan et al. 2021, https://arxiv.org/abs/2110.06612; the conversations are those of Pan et al. 2019
Sizes    those of the files
Format   see tabs.py; Chinese words are separated by spaces, which are removed
Files    `restoration-200k/{train,valid,test}.txt`, or these files in the folder itself; `dev.txt` may be valid
Eval     the candidates of the file, 10 in test, any number of them right; contexts whose candidates are all right or
         all wrong are left out, as in Douban
Context  every turn, oldest first

Variant `graded`: the fine-grained test set, three files `fg-JUDGE-test.txt` of three judges, each of whom graded 7
candidates of a context (0 is the worst). It has no training set. Right is what a judge graded best; NDCG uses the
grades. The authors' code reports Kendall's weighted tau here; papers that cite the set also give NDCG.
"""

from collections.abc import Iterator

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.response import variant
from poly_agents.errors import InputError
from poly_agents.tasks.tabs import TabsTeacher

JUDGES = ("brandenwang", "lt", "lt2")
GRADED = 7  # candidates of a context in the fine-grained test set


class RrsTeacher(TabsTeacher):
    """`-t poly_agents:rrs`, `-t poly_agents:rrs:graded`"""

    WHERE = (
        "https://github.com/gmftbyGMFTBY/SimpleReDial-v1 links to its data on Google Drive; give as --data-files the "
        "folder restoration-200k with train.txt, valid.txt (or dev.txt) and test.txt; rrs:graded reads "
        "fg-JUDGE-test.txt of it (JUDGE: brandenwang, lt, lt2)"
    )
    folder = "restoration-200k"
    sizes = {"test": 10}
    judged = True
    segmented = True

    def read(self, split) -> Iterator[Example]:
        if not variant(self.opt["task"], ("", "graded")):
            yield from super().read(split)
            return
        if split != "test":
            raise InputError("rrs:graded is a test set alone; use -dt test, or the task rrs")
        self.sizes, self.labels = {"test": GRADED}, "0123456789"
        for judge in JUDGES:
            yield from self.graded(judge)

    def graded(self, judge: str) -> Iterator[Example]:
        """Read the contexts that one judge graded."""
        name = f"fg-{judge}-test.txt"
        path = self.path(f"{self.folder}/{name}", name)
        for number, rows in enumerate(self.contexts(path, "test"), 1):
            context, best = rows[0].context, max(row.grade for row in rows)
            if len(rows) != GRADED:
                self.bad_context(path, number, context, f"{GRADED} candidates expected, got {len(rows)}")
            elif not best:
                self.bad_context(path, number, context, "no candidate is graded above 0")
            else:
                response, *others = (row.candidate for row in rows if row.grade == best)
                grades = [float(row.grade) for row in rows]
                yield Example(context, response, [row.candidate for row in rows], others, grades)
