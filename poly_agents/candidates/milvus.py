"""The candidate store in Milvus: embedded in a folder of this machine, or a server or a cluster by its URL.

    parlai interactive -mf models/poly/model -fcp milvus:./candidates.db#replies
    parlai interactive -mf models/poly/model -fcp milvus:https://milvus.example:19530#replies

A candidate is one entity, an inner-product index over them:

    key       8 bytes of digest of its line; what is there already is not encoded again
    label     the same of its text, which a label is found by
    line      the candidate as it was given, JSON
    vector    what the ranker keeps of it, float32

Milvus searches with every view of a context, and the union of what they hit is scored in float32. That is approximate
twice over: an index may miss a neighbour, and the best score may be of a candidate that no single view has among its
hits. Nothing is proven. An embedded database serves one process at a time; a token is taken from `MILVUS_TOKEN`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from poly_agents.candidates.search import Best, SearchOptions, SearchResult, found, queries_of
from poly_agents.candidates.store import Texts
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.text.tokens import Tokens

SCHEME = "milvus:"
MAKER = "poly_agents.maker"  # property of a collection
HITS = 64  # of each view, at threshold
CHUNK = 2_048  # entities with their vectors, or views, of one request
MOST = 16_384  # that Milvus gives at once
LINE = 65_535  # bytes, the longest text it takes


class Address(NamedTuple):
    uri: str
    collection: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.uri}#{self.collection}"

    @property
    def embedded(self) -> bool:
        return "://" not in self.uri


def is_address(path: str) -> bool:
    return path.startswith(SCHEME)


def address(text: str) -> Address:
    """Of `milvus:URI#COLLECTION`; without a scheme the URI is a file, and ends in .db."""
    uri, _, collection = text.removeprefix(SCHEME).rpartition("#")
    if not uri or not collection or ("://" not in uri and not uri.endswith(".db")):
        raise ValueError(f"{text}: give {SCHEME}FILE.db#COLLECTION or {SCHEME}URL#COLLECTION")
    return Address(uri, collection)


class MilvusStore:
    """A collection that was filled before. Its rows are in the order of their keys, as they were at opening: 16 bytes
    a candidate."""

    def __init__(self, uri: str, collection: str, maker: str | None = None):
        """Open it; with `maker`, only if that made it. Raises ValueError where it is stale or not there."""
        self.address = Address(uri, collection)
        if self.address.embedded and not Path(uri).exists():
            raise ValueError(f"{uri} is not there; fill it with `parlai poly_index`")
        self.client = connect(self.address)
        if check(self.client, self.address, maker) is None:
            raise ValueError(f"{uri} holds no collection {collection}; fill it with `parlai poly_index`")
        self.client.load_collection(collection)
        pairs = [(each["key"], each["label"]) for each in entities(self.client, collection, ["key", "label"], MOST)]
        if not pairs:
            raise ValueError(f"{self.address} is empty; fill it with `parlai poly_index`")
        self.keys, labels = np.array(sorted(pairs), np.int64).T
        self.by_label = labels.argsort(kind="stable")
        self.labels = labels[self.by_label]
        self.met: dict[int, str] = {}  # row -> line, of the last search

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The candidate of a row, as it was given."""
        line = self.met.get(row) or self.get([row], ["key", "line"])[row]["line"]
        return json.loads(line)

    @property
    def texts(self) -> Texts:
        return Texts(self)

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """The row of each text, -1 where there is none."""
        rows = places(self.labels, [digest(text.strip()) for text in texts])
        return np.where(rows < 0, -1, self.by_label[rows]).tolist()

    def nearest(self, views: Tensor, count: int) -> list[list[int]]:
        """Rows with the largest inner products with each of some views [K, D], as the index has them."""
        limit = min(count, MOST, len(self))
        rows = []
        for part in views.split(CHUNK):
            answers = self.client.search(self.address.collection, part.tolist(), limit=limit, output_fields=["key"])
            rows += [[row for row in places(self.keys, [h["key"] for h in hits]) if row >= 0] for hits in answers]
        return rows

    def get(self, rows: Sequence[int], fields: list[str]) -> dict[int, dict[str, Any]]:
        """Some fields of some rows, the key among them."""
        keys = {int(self.keys[row]): row for row in rows}
        parts = (list(keys)[start : start + CHUNK] for start in range(0, len(keys), CHUNK))
        answers = (self.client.get(self.address.collection, part, output_fields=fields) for part in parts)
        return {keys[entity["key"]]: entity for part in answers for entity in part}

    def vectors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows [n] and vectors [n, D], all of them, some at a time."""
        with_vectors = entities(self.client, self.address.collection, ["key", "vector"], CHUNK)
        for part in batches(with_vectors):
            rows = torch.from_numpy(places(self.keys, [entity["key"] for entity in part]))
            yield rows[rows >= 0], torch.tensor([entity["vector"] for entity in part])[rows >= 0]


class MilvusSearch:
    """Stands where a `Search` does."""

    def __init__(self, store: MilvusStore):
        self.store = store

    @torch.no_grad()
    def best(self, ranker: Ranker, contexts: Tokens, count: int) -> SearchResult:
        """The best `count` that Milvus finds for each of some bare contexts [B, L]."""
        queries = queries_of(prepared(ranker, contexts), torch.float32)
        hits = iter(self.store.nearest(torch.cat([query.views for query in queries]), max(count, HITS)))
        near = [sorted({row for _ in query.views for row in next(hits)}) for query in queries]
        entities = self.store.get(sorted(set().union(*near)), ["key", "line", "vector"])
        self.store.met = {row: entity["line"] for row, entity in entities.items()}
        bests = []
        for query, rows in zip(queries, near, strict=True):
            rows = [row for row in rows if row in entities]
            vectors = torch.tensor([entities[row]["vector"] for row in rows])  # [n, D]
            bests.append(Best(count))
            if rows:
                scores = maths.poly(query.views.unsqueeze(0), vectors.unsqueeze(0), scale=query.scale)[0]
                bests[-1].add(scores, torch.tensor(rows))
        share = sum(map(len, near)) / (len(near) * max(1, len(self.store)))
        return found(bests, share, share)

    @torch.no_grad()
    def scores(self, ranker: Ranker, contexts: Tokens) -> Tensor:
        """Of all candidates, for some bare contexts: [B, N]. Reads the whole collection."""
        views = prepared(ranker, contexts)
        scores = torch.full((len(views.vectors), len(self.store)), -torch.inf)
        for rows, vectors in self.store.vectors():
            scores[:, rows] = maths.poly(views.vectors, vectors.unsqueeze(0), views.mask, views.scale)
        return scores


def prepared(ranker: Ranker, contexts: Tokens) -> Views:
    """The contexts' views, in float32 on the CPU."""
    views = ranker.encode_contexts(contexts.to(ranker.device))
    if not isinstance(views, Views):
        raise ValueError("Milvus is for rankers that keep one vector a candidate: bi, poly, early")
    return views._replace(vectors=views.vectors.float()).cpu()


def open_search(path: str, model: TextRanker, options: SearchOptions) -> MilvusSearch:
    """The collection at `milvus:URI#COLLECTION`, if this model made it."""
    if options.search != "exact":
        raise ValueError(f"--search {options.search} is of a store in files; Milvus searches its own way, leave it out")
    return MilvusSearch(MilvusStore(*address(path), model.maker))


# --- filling one ----------------------------------------------------------------------------------------------------


def build(
    uri: str,
    collection: str,
    candidates: Iterable[dict[str, Any]],
    encode: Callable[[list[str]], Any],
    maker: str,
    *,
    keep: bool = False,
    total: int | None = None,
    progress: bool = True,
) -> MilvusStore:
    """Make the collection hold `candidates`, each with a `text`, and no others; with `keep`, those it has as well.

    As `store.build`, but a collection of another model is refused, since a database may not be ours alone. A build that
    was killed goes on where it was. Memory is bounded: some batches, and about 100 bytes a candidate for the keys.
    """
    where = Address(uri, collection)
    if where.embedded:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(where)) as client:
        held: set[int] = set()
        if check(client, where, maker) is not None:
            client.load_collection(collection)
            held = {entity["key"] for entity in entities(client, collection, ["key"], MOST)}
        met: set[int] = set()
        with tqdm(candidates, total=total, unit="cand", desc="encoding", disable=not progress) as bar:
            for part in batches(bar):
                lines = {digest(line): line for line in (json.dumps(each, ensure_ascii=False) for each in part)}
                new = {key: line for key, line in lines.items() if key not in held and key not in met}
                met.update(lines)
                if new:
                    insert(client, where, new, encode, maker)
        if not met and not (keep and held):
            raise ValueError(f"there are no candidates to put into {where}")
        for part in batches([] if keep else held - met):
            client.delete(collection, ids=part)
        client.flush(collection)
        return MilvusStore(uri, collection, maker)


def insert(client, where: Address, lines: dict[int, str], encode: Callable[[list[str]], Any], maker: str) -> None:
    """Encode some candidates and put them into the collection, which is made where it is not there."""
    for line in lines.values():
        if len(line.encode()) > LINE:
            raise ValueError(f"Milvus holds {LINE} bytes of a candidate at most, this has more: {line[:80]}...")
    texts = [json.loads(line)["text"] for line in lines.values()]
    vectors = encode(texts)
    if not isinstance(vectors, Tensor) or vectors.dim() != 2:
        raise ValueError("Milvus is for rankers that keep one vector a candidate: bi, poly, early")
    if not client.has_collection(where.collection):
        create(client, where.collection, vectors.shape[1], maker)
    rows = zip(lines.items(), texts, vectors.float().cpu().numpy(), strict=True)
    client.upsert(
        where.collection,
        [{"key": key, "label": digest(text.strip()), "line": line, "vector": v} for (key, line), text, v in rows],
    )


def create(client, name: str, width: int, maker: str) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("key", DataType.INT64, is_primary=True)
    schema.add_field("label", DataType.INT64)
    schema.add_field("line", DataType.VARCHAR, max_length=LINE)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    about = {"properties": {MAKER: maker}, "consistency_level": "Strong"}
    client.create_collection(name, schema=schema, index_params=index, **about)


def connect(where: Address):
    """A client; it raises what goes wrong, so it need not print it too."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise ImportError(f"{where} needs Milvus ({error}); type: pip install 'poly_agents[milvus]'") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    try:
        return MilvusClient(where.uri, token=os.environ.get("MILVUS_TOKEN", ""))
    except MilvusException as error:
        raise ValueError(
            f"{where} cannot be opened ({error}); an embedded database serves one process at a time"
        ) from error


def check(client, where: Address, maker: str | None) -> str | None:
    """What made a collection, None where there is none; refused if that is not `maker`."""
    if not client.has_collection(where.collection):
        return None
    made = client.describe_collection(where.collection)["properties"].get(MAKER)
    if made is None:
        raise ValueError(f"{where} is a collection of something else; give another name")
    if maker and made != maker:
        raise ValueError(f"{where} was made by another model, or by this one before it changed; give another name")
    return made


def entities(client, name: str, fields: list[str], size: int) -> Iterator[dict[str, Any]]:
    """All of a collection, `size` at a request."""
    with closing(client.query_iterator(name, batch_size=size, output_fields=fields)) as part:
        while rows := part.next():
            yield from rows


def batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of `CHUNK` items at most."""
    part = []
    for item in items:
        part.append(item)
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def places(keys: np.ndarray, wanted: Sequence[int]) -> np.ndarray:
    """Where in sorted keys each wanted one is; -1: nowhere."""
    wanted = np.array(wanted, np.int64)
    place = keys.searchsorted(wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def digest(line: str) -> int:
    """8 bytes that tell a line from others: of a million, two are the same once in 37 million times."""
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big", signed=True)
