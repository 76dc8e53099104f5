"""Mine hard negatives: wrong responses that a model scores high.

A response is wrong for a context if no example has it as a right response of the same context, and if it is no near
copy of one: something else than case, spaces and punctuation is different.

They are kept in a file of JSON lines, `{"context": ..., "response": ..., "negatives": [...]}`, hardest first. Its first
line says how they were mined.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from poly_agents import processes, zoo
from poly_agents.errors import InputError
from poly_agents.files.atomic import check_replaceable, only_writer, replace
from poly_agents.files.digests import text_digest
from poly_agents.files.lines import bounded, json_line
from poly_agents.learning.training import TrainingOptions
from poly_agents.models.textranker import TextRanker
from poly_agents.progress import bar
from poly_agents.text import given
from poly_agents.text.near import near_key
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
            every = self.options.hard_negatives_epochs
            due = int(epochs / every) * every
            is_resumed = epochs > 0 and not self.negatives
            if not all(processes.all_gather(is_resumed and self._are_mined(due))):
                self._mine(model, due)
            self.next_mining = due + every
            self.negatives = read(self.path)
        elif not self.negatives:
            self.negatives = read(self.path)
        known = (self.negatives.get(pair) for pair in pairs)
        return [None if row is None else row[: self.options.hard_negatives] for row in known]

    def _are_mined(self, due: float) -> bool:
        """Tell whether the file holds what this run mined after so many epochs, before it was resumed."""
        wanted = {"count": self.options.hard_negatives, "margin": self.options.hard_negatives_margin, "epochs": due}
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError), open(self.path, "rb") as file:
            mined_with = json.loads(next(bounded(file, self.path), b""))["mined_with"]
            return {name: mined_with[name] for name in wanted} == wanted
        return False

    def _mine(self, model: TextRanker, due: float) -> None:
        """Write the file that is due after so many epochs in the first process, while the others wait for it."""
        options = self.options
        if processes.rank() == 0:
            if options.hard_negatives_model and not due:  # for the first time
                model = TextRanker.load(zoo.local(options.hard_negatives_model))
            mine(self.path, model, list(self.examples()), options.hard_negatives, options.hard_negatives_margin, due)
        processes.all_gather(None)


def mine(
    path: str,
    model: TextRanker,
    examples: Sequence[ResponseExample],
    count: int,
    margin: float,
    epochs: float | None = None,
) -> None:
    """Write the hardest negatives of each example to a file. They are drawn from the responses of all examples.

    A response that scores above the right one minus `margin` may be right too, and is left out. The file appears when
    it is complete. Until then the lines are in `path`.part, where a killed run continues.

    Args:
        path: the file to write.
        model: scores the responses.
        examples: all of them, in order.
        count: how many negatives of an example, at most.
        margin: how far below the right response a negative has to score.
        epochs: how many epochs the run in training has made, by which it finds its negatives again if it is resumed.

    Raises:
        ValueError: the model runs once for each candidate, so mining would take days; or another process is mining
            into the same file.
    """
    check_replaceable(Path(path))
    if not model.can_cache:
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
    } | ({} if epochs is None else {"epochs": epochs})
    part = Path(f"{path}.part")
    with only_writer(Path(path)):
        done = resume(part, json_line({"mined_with": mined_with}), examples)
        with part.open("ab") as file:
            lines = search(model, examples, done, responses, ids, count, margin)
            for line in bar(iterable=lines, total=len(examples), initial=done, unit="ex", desc="mining"):
                file.write(json_line(line))
        replace(path, lambda beside: part.rename(beside))


def resume(part: Path, header: bytes, examples: Sequence[ResponseExample]) -> int:
    """Return how many examples a killed run has mined. Its file is cut after their lines, or started.

    Args:
        part: the unfinished file.
        header: its first line. A file with another one is of another run.
        examples: all of them, in order.
    """
    done = kept = 0
    if part.exists():
        with part.open("rb") as file, suppress(InputError):
            lines = bounded(file, part)
            if next(lines, None) == header:
                kept = len(header)
                for line, example in zip(lines, examples, strict=False):
                    if not is_line_of(line, example):
                        break
                    kept, done = kept + len(line), done + 1
    if kept:
        os.truncate(part, kept)
    else:
        part.write_bytes(header)
    return done


def is_line_of(line: bytes, example: ResponseExample) -> bool:
    """Tell whether a line is whole, and holds the negatives of an example."""
    try:
        row = json.loads(line)
        return line.endswith(b"\n") and (row["context"], row["response"]) == (example.context, example.response)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def search(
    model: TextRanker,
    examples: Sequence[ResponseExample],
    done: int,
    responses: Sequence[str],
    ids: Sequence[Sequence[int]],
    count: int,
    margin: float,
) -> Iterator[dict[str, Any]]:
    """Yield the lines of the examples after the first `done`.

    `responses` are those of all examples, `ids` their bare ids.
    """
    encoded = model.ranker.encode_ids(ids, progress=True)
    places = {text: place for place, text in enumerate(responses)}
    copies: dict[str, list[int]] = defaultdict(list)  # key -> places of near copies
    for text, place in places.items():
        copies[near_key(text)].append(place)
    right = right_responses((each.context, text) for each in examples for text in (each.response, *each.others))
    for start in range(done, len(examples), CONTEXTS):
        part = examples[start : start + CONTEXTS]
        scores = model.ranker.score_ids(model.context_ids([example.context for example in part]), encoded)  # [B, N]
        labels = [[places[example.response.strip()]] for example in part]
        limit = scores.gather(1, torch.tensor(labels, device=scores.device)) - margin  # [B, 1]
        for row, example in zip(scores, part, strict=True):
            row[[place for key in right[context_key(example.context)] for place in copies.get(key, ())]] = -torch.inf
        best = scores.masked_fill(scores > limit, -torch.inf).topk(min(count, len(responses)))
        for example, values, order in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            hard = [responses[n] for n, value in zip(order, values, strict=True) if value > -torch.inf]
            yield {"context": example.context, "response": example.response, "negatives": hard}


def right_responses(pairs: Iterable[tuple[str, str]]) -> Mapping[bytes, set[str]]:
    """Return the keys of all right responses of each context, by the key of the context.

    >>> right = right_responses([("any pets?", "Yes!"), ("Any pets?", "a dog"), ("hi", "hello")])
    >>> sorted(right[context_key("any pets?")])
    ['adog', 'yes']
    """
    right: dict[bytes, set[str]] = defaultdict(set)
    for context, response in pairs:
        right[context_key(context)].add(near_key(response))
    return right


def context_key(context: str) -> bytes:
    """Return what stands for a context: near copies of one have the same key."""
    return text_digest(near_key(context), 8)


def read(path: str) -> dict[tuple[str, str], list[str]]:
    """Read a file of hard negatives: (context, response) -> negatives. Right responses of the context are left out.

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
                    pair = given.text(row["context"], "context"), given.text(row["response"], "response")
                    negatives[pair] = given.texts(row["negatives"], "negative")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise InputError(
                    f"{path}, line {number}: not an object with context, response, negatives ({error})"
                ) from error
    if not negatives:
        raise InputError(f"{path} holds no negatives; make it with parlai poly_mine")
    right = right_responses(negatives)
    return {
        (context, response): [text for text in row if near_key(text) not in right[context_key(context)]]
        for (context, response), row in negatives.items()
    }
