"""Wikipedia article search: which article is this sentence from?

Source   https://github.com/facebookresearch/StarSpace, examples/wikipedia_article_search_full.sh
Licence  CC BY-SA 3.0 (Wikipedia)
Paper    Wu et al. 2018, https://arxiv.org/abs/1709.03856
Sizes    5,035,182 train, 9,921 valid, 9,925 test
Format   an article a line, its sentences separated by tabs; articles with fewer than two are left out
Eval     10,001 candidates: the rest of the article and the 10,000 texts of a second file
Context  one sentence, drawn once; the response is the rest of its article

Variant `small`: trains on 250,000 articles.
"""

import random
from collections.abc import Iterator, Sequence

from poly_agents.agents.teachers.examples import Example
from poly_agents.agents.teachers.response import ResponseTeacher, variant
from poly_agents.files.download import Download

SITE = "https://dl.fbaipublicfiles.com/starspace"
EVALUATION = tuple(f"wikipedia_{part}{kind}.txt" for part in ("dev", "test") for kind in ("10k", "_basedocs"))
TRAIN = {"": "wikipedia_shuf_train5M.txt", "small": "wikipedia_train250k.txt"}


class Candidates(Sequence):
    """The response of an example, followed by a pool that all examples share without copying it."""

    def __init__(self, own: str, pool: Sequence[str]):
        self.own, self.pool = own, pool

    def __len__(self):
        return 1 + len(self.pool)

    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self.pool[place - 1] if place else self.own

    def __iter__(self) -> Iterator[str]:
        yield self.own
        yield from self.pool


class WikipediaTeacher(ResponseTeacher):
    """`-t poly_agents:wikipedia`, `-t poly_agents:wikipedia:small`"""

    FILES = (
        Download(f"{SITE}/wikipedia_train5M.tgz", "wikipedia_train5M.tgz", members=("wikipedia_shuf_train5M.txt",)),
        Download(f"{SITE}/wikipedia_train250k.tgz", "wikipedia_train250k.tgz", members=("wikipedia_train250k.txt",)),
        Download(f"{SITE}/wikipedia_devtst.tgz", "wikipedia_devtst.tgz", members=EVALUATION),
    )

    def read(self, split):
        train = TRAIN[variant(self.opt["task"], TRAIN)]
        if split == "train":
            yield from self.articles(train)
            return
        part = "dev" if split == "valid" else "test"
        pool = self.pool(f"wikipedia_{part}_basedocs.txt")
        for example in self.articles(f"wikipedia_{part}10k.txt"):
            yield example._replace(candidates=Candidates(example.response, pool))

    def articles(self, name: str) -> Iterator[Example]:
        """Draw a sentence of every article of a file."""
        for number, sentences in enumerate(self.rows(self.path(name), split_sentences)):
            if len(sentences) > 1:
                place = random.Random(number).randrange(len(sentences))
                yield Example([sentences[place]], " ".join(sentences[:place] + sentences[place + 1 :]))

    def pool(self, name: str) -> list[str]:
        """Read the texts that are candidates of every example."""
        return [text for text in map(" ".join, self.rows(self.path(name), split_sentences)) if text]


def split_sentences(line: str) -> list[str]:
    """Split an article at its tabs."""
    return [sentence for sentence in map(str.strip, line.split("\t")) if sentence]
