"""Examples of response selection: what one is, how a dialogue becomes several, how candidates are drawn."""

import random
import string
from collections.abc import Sequence
from typing import NamedTuple

from poly_agents.errors import InputError

CANDIDATES = 20  # drawn for each context in evaluation if the data set brings none
PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


class Example(NamedTuple):
    """A context, its response and, if the data set has them, its candidates.

    Attributes:
        context: the turns before the response, oldest first.
        response: a right response, or None if the data set keeps it hidden.
        candidates: the responses to rank, or None if the data set brings none.
        others: further right responses.
        grades: the judgement of each candidate, if they are graded.
        id: the name that a leaderboard gives to the example.
        candidate_ids: the name that a leaderboard gives to each candidate.
        label_grades: the judgements of `response` and `others`, if they are graded and there are no candidates.
        missed: the grades of right responses whose texts nobody has, so that no ranker can find them.
    """

    context: Sequence[str]
    response: str | None
    candidates: Sequence[str] | None = None
    others: Sequence[str] = ()
    grades: Sequence[float] | None = None
    id: str | int | None = None
    candidate_ids: Sequence[str | int] | None = None
    label_grades: Sequence[float] = ()
    missed: Sequence[float] = ()


def replies(turns: Sequence[str], history: int) -> list[Example]:
    """Make an example of every turn but the first: the turn is the response to the `history` turns before it.

    >>> [(example.context, example.response) for example in replies(["hi", "hello", "bye"], 1)]
    [(['hi'], 'hello'), (['hello'], 'bye')]
    """
    return [Example(turns[max(0, place - history) : place], turns[place]) for place in range(1, len(turns))]


def draw_candidates(examples: Sequence[Example], seed: str, count: int = CANDIDATES) -> list[Example]:
    """Give each example `count` candidates: its response and the responses of other examples, shuffled.

    No two candidates of an example are equal after `normalized`. The same examples and seed always give the same
    candidates in the same order. Raises ValueError if there are fewer than `count` different responses.
    """
    pool = list({normalized(example.response): example.response for example in examples}.items())
    if len(pool) < count:
        raise InputError(
            f"{count} candidates need as many different responses, there are {len(pool)}; add examples, or give each "
            "example its own candidates"
        )
    draw = random.Random(seed)
    with_candidates = []
    for example in examples:
        own = normalized(example.response)
        others = [text for key, text in draw.sample(pool, count) if key != own][: count - 1]
        candidates = [example.response, *others]
        draw.shuffle(candidates)
        with_candidates.append(example._replace(candidates=candidates))
    return with_candidates


def normalized(text: str) -> str:
    """Reduce a response to its lower-case words. ParlAI's hits@k treats responses that agree in them as the same.

    >>> normalized("Well, YES!"), normalized("?!")
    ('well yes', '?!')
    """
    return " ".join(text.lower().translate(PUNCTUATION).split()) or text.strip()
