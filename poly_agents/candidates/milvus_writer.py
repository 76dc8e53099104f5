"""Fill a collection of Milvus with encoded candidates.

A collection belongs to one model. What it has already is not encoded again, so a build that was killed resumes where
it was. Unlike a store in files, a collection of another model is refused and not replaced: the database may be shared.
"""

import json
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poly_agents import processes
from poly_agents.candidates import milvus
from poly_agents.candidates.milvus import Address, MilvusStore
from poly_agents.candidates.vectors import check_finite
from poly_agents.candidates.writer import Recipe
from poly_agents.errors import InputError
from poly_agents.files.lines import json_line
from poly_agents.progress import bar as progress_bar

LINE = 65_535  # bytes of a candidate as JSON, a limit of Milvus


def build(
    address: Address,
    candidates: Iterable[dict[str, Any]],
    recipe: Recipe,
    *,
    keep: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> MilvusStore | None:
    """Make a collection hold the given candidates and no others.

    Memory holds a few batches, and about 100 bytes for each candidate to know which are stored. With several processes
    the first one reads and writes, and all of them encode.

    Args:
        address: the collection. It is made if it does not exist.
        candidates: dictionaries with a `text` and any other fields.
        recipe: how to encode them. The vectors are stored in float32, whatever its precision.
        keep: also keep the other candidates that the collection has.
        total: number of candidates, for the progress bar.
        progress: show a progress bar.

    Returns:
        The collection, or None in every process but the first: an embedded database serves only one.

    Raises:
        ValueError: another model made the collection, a candidate is too long, or there are no candidates.
    """
    if processes.rank() > 0:
        processes.share_work(partial(encode, recipe))
        return None
    if address.embedded:
        Path(address.uri).parent.mkdir(parents=True, exist_ok=True)
    with processes.workers(), closing(milvus.connect(address)) as client:
        stored = stored_keys(client, address, recipe.fingerprint)
        given: set[int] = set()
        with progress_bar(iterable=candidates, total=total, unit="cand", desc="encoding", disable=not progress) as bar:
            for part in milvus.batches(bar):
                lines = {milvus.digest(line): line for line in (json_line(each).decode()[:-1] for each in part)}
                new = {key: line for key, line in lines.items() if key not in stored and key not in given}
                given.update(lines)
                if new:
                    insert(client, address, new, recipe)
        if not given and not (keep and stored):
            raise InputError(f"there are no candidates to put into {address}")
        if not keep:
            for part in milvus.batches(stored - given):
                client.delete(address.collection, ids=part)
        client.flush(address.collection)
        return MilvusStore(address, recipe.fingerprint)


def stored_keys(client, address: Address, fingerprint: str) -> set[int]:
    """Return the keys of a collection, none if there is no collection. Raises ValueError if another model made it."""
    if milvus.check_collection(client, address, fingerprint) is None:
        return set()
    client.load_collection(address.collection)
    return {entity["key"] for entity in milvus.entities(client, address.collection, ["key"], milvus.ANSWER)}


def insert(client, address: Address, lines: dict[int, str], recipe: Recipe) -> None:
    """Encode candidates, given as lines by key, and put them into the collection. It is made if it does not exist."""
    for line in lines.values():
        if len(line.encode()) > LINE:
            raise InputError(
                f"a candidate has {len(line.encode())} bytes as JSON, Milvus holds {LINE} bytes at most; shorten it: "
                f"{line[:80]}..."
            )
    texts = [json.loads(line)["text"] for line in lines.values()]
    share = -(-len(texts) // processes.count())
    parts = [texts[start : start + share] for start in range(0, len(texts), share)]
    vectors = torch.cat(processes.map_shared(partial(encode, recipe), parts))  # [N, D]
    if not client.has_collection(address.collection):
        create(client, address.collection, vectors.shape[1], recipe.fingerprint)
    rows = zip(lines.items(), texts, vectors.numpy(), strict=True)
    client.upsert(
        address.collection,
        [
            {"key": key, "label": milvus.digest(text.strip()), "line": line, "vector": vector}
            for (key, line), text, vector in rows
        ],
    )


def encode(recipe: Recipe, texts: list[str]) -> Tensor:
    """Encode candidates, [N, D] float32. Raises ValueError if they have several vectors, or one that is not finite."""
    vectors = recipe.encode(texts)
    if not isinstance(vectors, Tensor) or vectors.dim() != 2:
        raise InputError(milvus.SINGLE)
    check_finite(vectors, texts)
    return vectors.float().cpu()


def create(client, collection: str, width: int, fingerprint: str) -> None:
    """Make an empty collection for vectors of some width, searched by inner products."""
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("label", DataType.INT64)
    schema.add_field("line", DataType.VARCHAR, max_length=LINE)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(
        collection,
        schema=schema,
        index_params=index,
        properties={milvus.FINGERPRINT: fingerprint},
        consistency_level="Strong",
    )
