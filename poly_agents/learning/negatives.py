"""Mine hard negatives: wrong responses that a model scores high.

They are kept in a file of JSON lines, `{"context": ..., "response": ..., "negatives": [...]}`, hardest first. Its first
line says how they were mined.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from poly_agents import processes, zoo
from poly_agents.errors import InputError
from poly_agents.files.atomic import replace
from poly_agents.files.lines import bounded
from poly_agents.learning.training import TrainingOptions
from poly_agents.models.textranker import TextRanker
from poly_agents.text.turns import ResponseExample

CONTEXTS = 64  # scored at a time


class HardNegatives:
    """The hard negatives of a training run: from a file, or mined into `MODEL.negatives` again and again."""

    def __init__(
        self, options: TrainingOptions, model_file: str | None, examples: Callable[[], Iterable[ResponseExample]]
    ):
        """Choose the file. Nothing is mined yet.

        Args:
            options: how many negatives, where from, and how often to mine.
            model_file: the model in training. Negatives are mined into a file next to it.
            examples: returns all training examples. It is called when negatives are mined.

        Raises:
            ValueError: there is neither a file of negatives nor a model file.
        """
        if not (options.hard_negatives_file or model_file):
            raise InputError("--hard-negatives are mined into a file next to the model: give -mf, or a file of them")
        self.options = options
        self.path = options.hard_negatives_file or f"{model_file}.negatives"
        self.examples = examples
        self.negatives: dict[tuple[str, str], list[str]] = {}  # (context, response) -> negatives
        self.next_mining = 0.0  # epochs

    def of(self, pairs: Iterable[tuple[str, str]], epochs: float, model: TextRanker) -> list[list[str] | None]:
        """Return the negatives of each pair of context and response, or None if the file does not have the pair.

        Args:
            pairs: contexts with their responses.
            epochs: how many epochs were trained. When the next mining is due it happens now, in all processes.
            model: the model in training.
        """
        if not self.options.hard_negatives_file and epochs >= self.next_mining:
            self._mine(model)
            every = self.options.hard_negatives_epochs
            self.next_mining = (int(epochs / every) + 1) * every
            self.negatives = read(self.path)
        elif not self.negatives:
            self.negatives = read(self.path)
        known = (self.negatives.get(pair) for pair in pairs)
        return [None if row is None else row[: self.options.hard_negatives] for row in known]

    def _mine(self, model: TextRanker) -> None:
        """Write the file in the first process, while the others wait for it."""
        options = self.options
        if processes.rank() == 0:
            if options.hard_negatives_model and not self.negatives:  # for the first time
                model = TextRanker.load(zoo.local(options.hard_negatives_model))
            mine(self.path, model, list(self.examples()), options.hard_negatives, options.hard_negatives_margin)
        processes.all_gather(None)


def mine(path: str, model: TextRanker, examples: Sequence[ResponseExample], count: int, margin: float) -> None:
    """Write the hardest negatives of each example to a file. They are drawn from the responses of all examples.

    A response that scores above the right one minus `margin` may be right too, and is left out. The file appears when
    it is complete. Until then the lines are in `path`.part, where a killed run continues.

    Args:
        path: the file to write.
        model: scores the responses.
        examples: all of them, in order.
        count: how many negatives of an example, at most.
        margin: how far below the right response a negative has to score.

    Raises:
        ValueError: the model runs once for each candidate, so mining would take days.
    """
    if not model.ranker.can_cache(model.ranker.options):
        raise InputError(
            f"{type(model.ranker).__name__} runs once per candidate: mining {len(examples)} contexts with it would "
            "take days; mine with a model that caches its candidates (bi, poly, early, mix, late)"
        )
    responses = list(dict.fromkeys(example.response.strip() for example in examples))
    ids = model.candidate_ids(responses)
    mined_with = {
        "fingerprint": hashlib.sha256(f"{model.fingerprint} {ids}".encode()).hexdigest(),
        "count": count,
        "margin": margin,
    }
    part = Path(f"{path}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    done = resume(part, mined_with)
    with part.open("a", encoding="utf-8") as file:
        lines = search(model, examples[done:], responses, ids, count, margin)
        for line in tqdm(lines, total=len(examples), initial=done, unit="ex", desc="mining", disable=None):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    replace(path, lambda beside: part.rename(beside))


def resume(part: Path, mined_with: dict[str, Any]) -> int:
    """Return how many examples a killed run has mined. The file is cut to whole lines, or started if it is of others.

    Args:
        part: the unfinished file.
        mined_with: the content of its first line.
    """
    header = json.dumps({"mined_with": mined_with}) + "\n"
    whole: list[bytes] = []
    if part.exists():
        with part.open("rb") as file:
            whole = [line for line in bounded(file, part) if line.endswith(b"\n")]
    if whole[:1] != [header.encode()]:
        whole = [header.encode()]
    part.write_bytes(b"".join(whole))
    return len(whole) - 1


def search(
    model: TextRanker,
    examples: Sequence[ResponseExample],
    responses: Sequence[str],
    ids: Sequence[Sequence[int]],
    count: int,
    margin: float,
) -> Iterator[dict[str, Any]]:
    """Yield the line of each example. `responses` are those of all examples, `ids` their bare ids."""
    encoded = model.ranker.encode_ids(ids, progress=True)
    columns = {text: column for column, text in enumerate(responses)}
    for start in range(0, len(examples), CONTEXTS):
        part = examples[start : start + CONTEXTS]
        scores = model.ranker.score_ids(model.context_ids([example.context for example in part]), encoded)  # [B, N]
        labels = [[columns[example.response.strip()]] for example in part]
        label = torch.tensor(labels, device=scores.device)  # [B, 1]
        limit = scores.gather(1, label) - margin
        scores = scores.scatter(1, label, -torch.inf)
        best = scores.masked_fill(scores > limit, -torch.inf).topk(min(count, len(responses)))
        for example, values, order in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            hard = [responses[n] for n, value in zip(order, values, strict=True) if value > -torch.inf]
            yield {"context": example.context, "response": example.response, "negatives": hard}


def read(path: str) -> dict[tuple[str, str], list[str]]:
    """Read a file of hard negatives: (context, response) -> negatives.

    Raises:
        ValueError: there is no such file, it holds no negatives, or a line is broken. The message names the line.
    """
    if not Path(path).is_file():
        raise InputError(f"--hard-negatives-file {path}: there is no such file; make it with parlai poly_mine")
    negatives = {}
    with open(path, "rb") as file:
        for number, line in enumerate(bounded(file, path), 1):
            try:
                row = json.loads(line)
                if "mined_with" not in row:
                    negatives[row["context"], row["response"]] = list(row["negatives"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}: not an object with context, response, negatives ({error})"
                ) from error
    if not negatives:
        raise InputError(f"{path} holds no negatives; make it with parlai poly_mine")
    return negatives
