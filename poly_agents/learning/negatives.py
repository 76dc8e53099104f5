"""Hard negatives: the responses a model takes for the best ones though they are not. A file of them can be read by eye.

One JSON object a line, `{"context": ..., "response": ..., "negatives": [...]}`, the hardest first. The first line says
what they were mined with.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from poly_agents import processes
from poly_agents.agents.teachers import Turn
from poly_agents.files.atomic import replace
from poly_agents.learning.training import TrainingOptions
from poly_agents.models.textranker import TextRanker

CONTEXTS = 64  # scored at a time


class HardNegatives:
    """Those that a training run asks for: from a file, or mined into one beside the model and anew every so often."""

    def __init__(self, options: TrainingOptions, model_file: str | None, turns: Callable[[], Iterable[Turn]]):
        if not (options.hard_negatives_file or model_file):
            raise ValueError("--hard-negatives are mined into a file beside the model: give -mf, or a file of them")
        self.options = options
        self.path = options.hard_negatives_file or f"{model_file}.negatives"
        self.turns = turns
        self.found: dict[tuple[str, str], list[str]] = {}
        self.minings = 0

    def of(self, pairs: Iterable[tuple[str, str]], epochs: float, model: TextRanker) -> list[list[str] | None]:
        """The negatives of each (context, response), None where none are known; `model` is the one in training."""
        mines = not self.options.hard_negatives_file and epochs >= self.minings * self.options.hard_negatives_epochs
        if mines or not self.found:
            if mines:
                self._mine(model)
                self.minings = int(epochs / self.options.hard_negatives_epochs) + 1
            self.found = read(self.path)
        rows = (self.found.get(pair) for pair in pairs)
        return [row and row[: self.options.hard_negatives] for row in rows]

    def _mine(self, model: TextRanker) -> None:
        given = self.options.hard_negatives_model
        if processes.rank() == 0:
            if given and not self.found:
                model = TextRanker.load(given)
            mine(self.path, model, list(self.turns()), self.options.hard_negatives, self.options.hard_negatives_margin)
        processes.all_gather(None)  # the others wait for the file


def mine(path: str, model: TextRanker, turns: Sequence[Turn], count: int, margin: float) -> None:
    """Write the `count` hardest negatives of every turn, out of the responses of all of them, to `path`.

    A candidate that scores higher than the response minus `margin` is likely to be right as well, and is left out.
    Resumes what a killed run left in `path`.part; the file itself appears when it is whole.
    """
    if not model.ranker.can_cache(model.ranker.options):
        raise ValueError(
            f"{type(model.ranker).__name__} runs once per candidate: mining {len(turns)} contexts with it would take "
            "days; mine with a model that caches its candidates (bi, poly, mix, late)"
        )
    responses = list(dict.fromkeys(turn.response.strip() for turn in turns))
    ids = model.candidate_ids(responses)
    made_with = {
        "fingerprint": hashlib.sha256(f"{model.maker} {ids}".encode()).hexdigest(),
        "count": count,
        "margin": margin,
    }
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    done = _resume(part, made_with)
    with part.open("a", encoding="utf-8") as file:
        lines = _mined(model, turns[done:], responses, ids, count, margin)
        for line in tqdm(lines, total=len(turns), initial=done, unit="ex", desc="mining", disable=None):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    replace(path, lambda beside: part.rename(beside))


def _resume(part: Path, made_with: dict) -> int:
    """How many turns of the same work are in the file; it is cut to them, or started anew."""
    header = json.dumps({"mined_with": made_with}) + "\n"
    lines = part.read_text(encoding="utf-8").splitlines(keepends=True) if part.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if whole[:1] != [header]:
        whole = [header]
    part.write_text("".join(whole), encoding="utf-8")
    return len(whole) - 1


def _mined(model, turns, responses, ids, count, margin) -> Iterator[dict]:
    kept = model.ranker.encode_ids(ids, progress=True)
    place = {text: number for number, text in enumerate(responses)}
    for start in range(0, len(turns), CONTEXTS):
        part = turns[start : start + CONTEXTS]
        scores = model.ranker.score_ids(model.context_ids([turn.context for turn in part]), kept)  # [B, N]
        label = torch.tensor([place[turn.response.strip()] for turn in part], device=scores.device).unsqueeze(1)
        limit = scores.gather(1, label) - margin
        scores = scores.scatter(1, label, -torch.inf)
        best = scores.masked_fill(scores > limit, -torch.inf).topk(min(count, len(responses)))
        for turn, values, order in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            hard = [responses[n] for n, value in zip(order, values, strict=True) if value > -torch.inf]
            yield {"context": turn.context, "response": turn.response, "negatives": hard}


def read(path: str) -> dict[tuple[str, str], list[str]]:
    """(context, response) -> its negatives. A broken line is named."""
    found = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            if "mined_with" not in row:
                found[row["context"], row["response"]] = list(row["negatives"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not an object with context, response, negatives ({error})"
            ) from error
    if not found:
        raise ValueError(f"{path} holds no negatives; make it with parlai poly_mine")
    return found


def _lines(path: str) -> Iterable[str]:
    if not Path(path).is_file():
        raise ValueError(f"--hard-negatives-file {path}: there is no such file; make it with parlai poly_mine")
    return Path(path).read_text(encoding="utf-8").splitlines()
