"""Turn ParlAI's observations into the ids of a batch. Ids stay lists until `batchify` pads them, once."""

import random
from collections.abc import Callable, Sequence

import torch
from parlai.core.message import Message
from parlai.core.torch_agent import Batch, History
from parlai.utils.misc import warn_once

from poly_agents.agents.report import RankedExample
from poly_agents.text.tokens import pad

STATISTICS = ("original_length", "truncate_rate", "truncated_length")  # what ParlAI reports of truncated texts


def set_context(obs: Message, history: History, truncate: int) -> None:
    """Set the ids of the context, `text_vec`. Of a long one the newest turns are kept, and persona lines."""
    if "text" not in obs:
        return
    if "text_vec" not in obs:
        text = history.get_history_str()
        if text is None:
            return
        obs["full_text"] = text
        obs["text_vec"] = list(history.get_history_vec() or ())
    text = obs.get("full_text") or obs["text"]
    _truncate(obs, "text_vec", "context", lambda ids: history.cut(ids, text, truncate))


def set_label(obs: Message, ids: Callable[[str], list[int]], truncate: int, draw: random.Random) -> None:
    """Set the ids of the label. Of several right responses training draws one, and evaluation takes the first."""
    field = "labels" if "labels" in obs else "eval_labels"
    labels = obs.get(field)
    if not labels:
        return
    label = draw.choice(labels) if field == "labels" and len(labels) > 1 else labels[0]
    obs[f"{field}_choice"], obs[f"{field}_vec"] = label, ids(label)
    _truncate(obs, f"{field}_vec", "label", lambda kept: kept[:truncate])


def set_candidates(obs: Message, ids: Callable[[str], list[int]], truncate: int) -> None:
    """Set the ids of the candidates that an example brings."""
    if obs.get("label_candidates"):
        obs.force_set("label_candidates", list(obs["label_candidates"]))
        obs["label_candidates_vecs"] = [ids(text)[:truncate] for text in obs["label_candidates"]]


def warn_if_truncated(obs: Message, text_truncate: int, label_truncate: int) -> None:
    """Say once that texts are truncated."""
    if obs.get("context_truncate_rate") or obs.get("label_truncate_rate"):
        warn_once(
            f"some texts are longer than --text-truncate {text_truncate} or --label-truncate {label_truncate} tokens: "
            "contexts keep their newest turns, candidates their beginning; the report counts them (ctrunc, ltrunc)"
        )


def has_label(obs: Message) -> bool:
    """Tell whether a label of a training example is among its candidates. Says once that there are others."""
    if not obs.get("labels") or "label_candidates_vecs" not in obs:
        return True
    known = any(label.strip() == text.strip() for label in obs["labels"] for text in obs["label_candidates"])
    if not known:
        warn_once("skipping examples whose label is not among their candidates")
    return known


def batchify(obs_batch: Sequence[Message], is_valid: Callable[[Message], bool], padding: int, debug: bool) -> Batch:
    """Make a batch of those observations that are valid.

    Args:
        obs_batch: observations with the fields that the functions above set.
        is_valid: tells which of them to take.
        padding: the id that ParlAI takes for padding when it counts tokens.
        debug: keep the observations in the batch.

    Returns:
        A batch with the fields that ParlAI reads, and these:
            examples: B of `RankedExample`, contexts and labels as text.
            tokens: the bare contexts, [B, L].
            label_ids: the bare ids of B labels.
    """
    numbered = [(number, obs) for number, obs in enumerate(obs_batch) if is_valid(obs)]
    if not numbered:
        return Batch(batchsize=0)
    numbers, rows = zip(*numbered, strict=True)
    field = "labels" if any("labels_vec" in obs for obs in rows) else "eval_labels"
    tokens = pad([obs.get("text_vec", ()) for obs in rows])
    label_ids = [obs.get(f"{field}_vec", []) for obs in rows]
    has_labels = any(f"{field}_vec" in obs for obs in rows)
    has_candidates = any("label_candidates_vecs" in obs for obs in rows)
    labels = pad(label_ids)
    return Batch(
        batchsize=len(rows),
        is_training=any("labels" in obs for obs in obs_batch),
        valid_indices=torch.tensor(numbers),
        text_vec=tokens.ids.masked_fill(~tokens.mask, padding),
        label_vec=labels.ids.masked_fill(~labels.mask, padding) if has_labels else None,
        labels=[obs.get(f"{field}_choice") for obs in rows] if has_labels else None,
        candidates=[obs.get("label_candidates") for obs in rows] if has_candidates else None,
        candidate_vecs=[obs.get("label_candidates_vecs") for obs in rows] if has_candidates else None,
        observations=rows if debug else None,
        examples=[RankedExample.of(obs, obs.get("full_text") or obs.get("text") or "") for obs in rows],
        tokens=tokens,
        label_ids=label_ids,
        **_statistics(rows),
    )


def _truncate(obs: Message, field: str, name: str, cut: Callable[[list[int]], list[int]]) -> None:
    """Truncate the ids of a field, and note how long they were and how much was cut off."""
    ids = list(obs[field])
    obs.force_set(field, cut(ids))
    lost = len(ids) - len(obs[field])
    for statistic, value in zip(STATISTICS, (len(ids), lost > 0, lost), strict=True):
        obs.force_set(f"{name}_{statistic}", value)


def _statistics(rows: Sequence[Message]) -> dict[str, list]:
    """Return the statistics of a batch by the names ParlAI reads; those that no row has are left to its default."""
    names = [f"{name}_{statistic}" for name in ("context", "label") for statistic in STATISTICS]
    return {
        f"_{name}": [obs.get(name, 0) for obs in rows] if any(name in obs for obs in rows) else None for name in names
    }
