"""Leave out of a chat what was said already: the same text, near copies, and what a model takes for the same.

A ranker gives high scores to what resembles the context, so without this it would often repeat the partner's last turn.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor
from torch.nn.functional import normalize

from poly_agents.agents.report import RankedExample
from poly_agents.models.textranker import TextRanker
from poly_agents.text.near import near_key
from poly_agents.text.turns import PERSONA, already_said

LEFT_OUT = 100  # further candidates to look at, as some are left out
COMPARED = 50  # of the best candidates, by the model's own similarity
SIMILAR = 0.86  # cosine of two texts that say the same; a greeting and its answer have less
RELATED = 0.8  # less will do for two texts that also share half of their letters in one run
SHORTEST = 12  # letters of a part or a run that counts


class Said:
    """The turns of a dialogue, which its next reply should not repeat."""

    def __init__(self, context: str, near: bool = True, model: TextRanker | None = None):
        """Remember the turns.

        Args:
            context: the dialogue, one turn a line.
            near: leave out near copies too.
            model: compares texts by the vectors it makes of candidates, if it makes one of each.
        """
        self.turns = already_said(context)
        self.said = sorted(turn for turn in self.turns if not turn.startswith(PERSONA)) if near else []
        self.keys = {near_key(turn) for turn in self.said}
        self.model = model

    def __len__(self) -> int:
        """Return how many candidates may be left out."""
        return len(self.turns) + (LEFT_OUT if self.said else 0)

    def new(self, texts: Sequence[str]) -> list[int]:
        """Return the places of the texts that were not said yet. All, if there are no others."""
        apart = [place for place, text in enumerate(texts) if not self._is_copy(text)]
        compared = apart[:COMPARED]
        similar = self._similar([texts[place] for place in compared])
        different = [place for place, same in zip(compared, similar, strict=True) if not same] + apart[COMPARED:]
        return different or apart or list(range(len(texts)))

    def _is_copy(self, text: str) -> bool:
        return text in self.turns or any(is_part(near_key(text), key) for key in self.keys)

    def _similar(self, texts: list[str]) -> list[bool]:
        """Tell which texts the model takes for what was said. If these are most of them, all count as new."""
        none = [False] * len(texts)
        if not (self.model and self.said and texts and self.model.can_cache):
            return none
        said, found = vectors(self.model, self.said), vectors(self.model, texts)
        if said is None or found is None:
            return none
        cosines = found @ said.T  # [N, turns]
        same = cosines > SIMILAR
        for text, turn in (cosines > RELATED).nonzero().tolist():
            same[text, turn] |= shares_run(near_key(texts[text]), near_key(self.said[turn]))
        similar = same.any(-1).tolist()  # [N]
        return similar if 2 * sum(similar) <= len(texts) else none


def is_part(key: str, said: str) -> bool:
    """Tell whether two keys of `near_key` are equal, or one is most of the other.

    >>> is_part(near_key("What music do you like?"), near_key("nice, what music do you like?"))
    True
    >>> is_part(near_key("nice"), near_key("nice, what music do you like?"))
    False
    """
    shorter, longer = sorted((key, said), key=len)
    return key == said or (len(shorter) >= SHORTEST and 2 * len(shorter) >= len(longer) and shorter in longer)


def shares_run(key: str, other: str) -> bool:
    """Tell whether two keys of `near_key` share a run of letters that is half of the longer one.

    >>> shares_run(near_key("what music do you like listening to?"), near_key("so, what music do you like?"))
    True
    >>> shares_run(near_key("fine, how are you?"), near_key("hi, how are you?"))
    False
    """
    run = SequenceMatcher(None, key, other, autojunk=False).find_longest_match().size
    return run >= SHORTEST and 2 * run >= max(len(key), len(other))


def vectors(model: TextRanker, texts: Sequence[str]) -> Tensor | None:
    """Return the unit vectors that a model makes of texts as candidates, [N, D]. None: it makes more than one each."""
    encoded = model.ranker.encode_ids(model.candidate_ids(texts))
    return normalize(encoded.float(), dim=-1) if isinstance(encoded, torch.Tensor) and encoded.dim() == 2 else None


def said_in(
    examples: Sequence[RankedExample], opt, fixed: bool = False, model: TextRanker | None = None
) -> list[Said] | None:
    """Return what each reply should not repeat, or None if it may say what it likes.

    Args:
        examples: the contexts.
        opt: ParlAI's options. `repeat_blocking` is on in a chat if it is left open.
        fixed: the candidates are the same for every context, so ParlAI's own --repeat-blocking-heuristic holds.
        model: compares texts.
    """
    exact = opt.get("repeat_blocking_heuristic", True)
    near = opt.get("repeat_blocking")
    if near is None:
        near = bool(exact and opt.get("interactive_mode"))
    if not near and not (exact and fixed):
        return None
    return [Said(example.context, near, model if near else None) for example in examples]
