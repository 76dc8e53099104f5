"""Read and search candidates in Milvus: embedded in a file of this machine, or a server or a cluster by its URL.

    parlai interactive -mf models/poly/model -fcp milvus:./candidates.db#replies
    parlai interactive -mf models/poly/model -fcp milvus:https://milvus.example:19530#replies

A candidate is one entity of a collection:

    key       8 bytes of the digest of its line; a candidate that is there is not encoded again
    label     8 bytes of the digest of its text; labels are found by it
    line      the candidate as JSON, with its `text` and any other fields
    vector    its encoding in float32; an index over inner products

A search asks Milvus for the nearest candidates of every view of a context, and scores all of them in float32. The
result is approximate for two reasons: an index can miss a neighbour, and the best candidate may be near to no single
view. An embedded database serves one process at a time. The variable MILVUS_TOKEN holds the token of a server.
`milvus_writer.py` fills collections.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from poly_agents.candidates.search import Best, SearchOptions, SearchResult, queries_of
from poly_agents.candidates.store import Texts, find_sorted
from poly_agents.errors import InputError, MissingPackageError
from poly_agents.files.digests import text_digest
from poly_agents.scoring import maths
from poly_agents.scoring.ranker import Ranker, Views
from poly_agents.text.tokens import Tokens

SCHEME = "milvus:"
FINGERPRINT = "poly_agents.maker"  # property of a collection, so called since the first version
HITS = 64  # candidates that are asked for each view, at least
CHUNK = 2_048  # entities with vectors, or views, in one request
ANSWER = 16_384  # entities in one answer, a limit of Milvus
SINGLE = "Milvus holds one vector for each candidate; give a model of bi, poly or early"


class Address(NamedTuple):
    """A collection, and the database that it is in."""

    uri: str  # a file that ends in .db, or a URL
    collection: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.uri}#{self.collection}"

    @property
    def embedded(self) -> bool:
        """Tell whether the database is a file of this machine."""
        return "://" not in self.uri


def is_address(path: str) -> bool:
    """Tell whether a path of candidates is an address of Milvus."""
    return path.startswith(SCHEME)


def parse_address(text: str) -> Address:
    """Parse `milvus:URI#COLLECTION`.

    Raises:
        ValueError: a part is missing, or the URI is neither a URL nor a file that ends in .db.

    >>> parse_address("milvus:./candidates.db#replies").collection
    'replies'
    """
    uri, _, collection = text.removeprefix(SCHEME).rpartition("#")
    if not uri or not collection or ("://" not in uri and not uri.endswith(".db")):
        raise InputError(f"{text}: give {SCHEME}FILE.db#COLLECTION or {SCHEME}URL#COLLECTION")
    return Address(uri, collection)


class MilvusStore:
    """A collection that is open for reading. Candidates are numbered in the order of their keys.

    Opening reads all keys, and they stay in memory: 32 bytes for each candidate.
    """

    def __init__(self, address: Address, fingerprint: str | None = None):
        """Open a collection.

        Args:
            address: the collection.
            fingerprint: the fingerprint of the model that must have made it. None: any model.

        Raises:
            ValueError: there is no such collection, it is empty, or another model made it.
        """
        self.address = address
        fill = "fill it with `parlai poly_index`"
        if address.embedded and not Path(address.uri).exists():
            raise InputError(f"there is no file {address.uri}; {fill}")
        self.client = connect(address)
        self.fingerprint = check_collection(self.client, address, fingerprint)
        if self.fingerprint is None:
            raise InputError(f"{address.uri} holds no collection {address.collection}; {fill}")
        self.client.load_collection(address.collection)
        every = entities(self.client, address.collection, ["key", "label"], ANSWER)
        pairs = sorted((entity["key"], entity["label"]) for entity in every)
        if not pairs:
            raise InputError(f"{address} is empty; {fill}")
        self.keys, labels = np.array(pairs, np.int64).T
        self.by_label = labels.argsort(kind="stable")
        self.labels = labels[self.by_label]
        self.lines: dict[int, str] = {}  # row -> line, of the candidates that `fetch` returned last

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return the candidate of a row, as it was given."""
        line = self.lines[row] if row in self.lines else self._get([row], ["key", "line"])[row]["line"]
        return json.loads(line)

    @property
    def texts(self) -> Texts:
        """Return the texts of all candidates. Each is read from Milvus when it is asked for."""
        return Texts(self)

    @cached_property
    def repeats(self) -> np.ndarray:
        """Return the rows whose texts other rows before them have, in no order."""
        return self.by_label[1:][self.labels[1:] == self.labels[:-1]]

    def rows_of(self, texts: Sequence[str]) -> list[int]:
        """Return the row of each text, or -1 if the collection does not have it."""
        places = find_sorted(self.labels, np.array([digest(text.strip()) for text in texts], np.int64))
        return np.where(places < 0, -1, self.by_label[places]).tolist()

    def nearest(self, views: Tensor, count: int) -> list[list[int]]:
        """Find the rows with the largest inner products with each view [K, D], as well as the index does."""
        limit = min(count, ANSWER, len(self))
        rows = []
        for part in views.split(CHUNK):
            answers = self.client.search(self.address.collection, part.tolist(), limit=limit, output_fields=["key"])
            for hits in answers:
                places = find_sorted(self.keys, np.array([hit["key"] for hit in hits], np.int64))
                rows.append(places[places >= 0].tolist())
        return rows

    def fetch(self, rows: Sequence[int]) -> dict[int, list[float]]:
        """Fetch the vectors of some rows. One that another process has deleted since is left out.

        Their lines come along, and `store[row]` takes them from memory until the next call.
        """
        found = self._get(rows, ["key", "line", "vector"])
        self.lines = {row: entity["line"] for row, entity in found.items()}
        return {row: entity["vector"] for row, entity in found.items()}

    def _get(self, rows: Sequence[int], fields: list[str]) -> dict[int, dict[str, Any]]:
        """Return some fields of some rows. The key has to be one of the fields."""
        row_of = {int(self.keys[row]): row for row in rows}
        answers = (
            self.client.get(self.address.collection, part, output_fields=fields) for part in batches(list(row_of))
        )
        return {row_of[entity["key"]]: entity for part in answers for entity in part}

    def vectors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all candidates in parts: their rows [n] and their vectors [n, D]."""
        for part in batches(entities(self.client, self.address.collection, ["key", "vector"], CHUNK)):
            rows = torch.from_numpy(find_sorted(self.keys, np.array([entity["key"] for entity in part], np.int64)))
            yield rows[rows >= 0], torch.tensor([entity["vector"] for entity in part])[rows >= 0]


class MilvusSearch:
    """Searches a collection. It has the methods of `Search`."""

    def __init__(self, store: MilvusStore):
        self.store = store

    @torch.no_grad()
    def best(self, ranker: Ranker, contexts: Tokens, count: int) -> SearchResult:
        """Find the best `count` candidates for each bare context [B, L], among those near to one of its views."""
        queries = queries_of(encode_views(ranker, contexts), torch.float32)
        hits = iter(self.store.nearest(torch.cat([query.views for query in queries]), max(count, HITS)))
        near = [sorted(set().union(*(next(hits) for _ in query.views))) for query in queries]
        vectors = self.store.fetch(sorted(set().union(*near)))
        bests = []
        for query, rows in zip(queries, near, strict=True):
            rows = [row for row in rows if row in vectors]
            best = Best(count)
            if rows:
                candidates = torch.tensor([vectors[row] for row in rows])  # [n, D]
                scores = maths.poly(query.views.unsqueeze(0), candidates.unsqueeze(0), scale=query.scale)[0]
                best.add(scores, torch.tensor(rows))
            bests.append(best)
        share = sum(map(len, near)) / (len(near) * len(self.store))
        return SearchResult.of(bests, share, share)

    @torch.no_grad()
    def scores(self, ranker: Ranker, contexts: Tokens) -> Tensor:
        """Score all candidates for bare contexts [B, L] -> [B, N] float32. The whole collection is read."""
        views = encode_views(ranker, contexts)
        scores = torch.full((len(views.vectors), len(self.store)), -torch.inf)
        for rows, vectors in self.store.vectors():
            scores[:, rows] = maths.poly(views.vectors, vectors.unsqueeze(0), views.mask, views.scale)
        return scores


def encode_views(ranker: Ranker, contexts: Tokens) -> Views:
    """Encode bare contexts [B, L] as views, in float32 on the CPU. Raises ValueError if the ranker has no views."""
    views = ranker.encode_contexts(contexts.to(ranker.device))
    if not isinstance(views, Views):
        raise InputError(SINGLE)
    return views._replace(vectors=views.vectors.float()).cpu()


def open_search(path: str, fingerprint: str, options: SearchOptions) -> MilvusSearch:
    """Open the collection at `milvus:URI#COLLECTION`.

    Raises:
        ValueError: the address is wrong, there is no such collection, or the model of another fingerprint made it.
    """
    if options.search != "exact":
        raise InputError(f"--search {options.search} is for stores in files; Milvus searches its own way, leave it out")
    return MilvusSearch(MilvusStore(parse_address(path), fingerprint))


# --- what reading and writing share -----------------------------------------------------------------------------------


def connect(address: Address):
    """Return a client of pymilvus. Raises ValueError if the database cannot be opened."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise MissingPackageError(f"{address} needs Milvus ({error}); pip install 'poly_agents[milvus]'") from error
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints every error that it also raises
    try:
        return MilvusClient(address.uri, token=os.environ.get("MILVUS_TOKEN", ""))
    except MilvusException as error:
        raise InputError(
            f"{address} cannot be opened ({error}); an embedded database serves one process at a time"
        ) from error


def check_collection(client, address: Address, fingerprint: str | None) -> str | None:
    """Return the fingerprint of the model that made a collection, or None if there is no collection.

    Raises:
        ValueError: the collection is not one of candidates, or its fingerprint is not the given one.
    """
    if not client.has_collection(address.collection):
        return None
    found = client.describe_collection(address.collection)["properties"].get(FINGERPRINT)
    if found is None:
        raise InputError(f"{address} is a collection of something else; give another name")
    if fingerprint and found != fingerprint:
        raise InputError(f"{address} was made by another model, or by this one before it changed; give another name")
    return found


def entities(client, collection: str, fields: list[str], size: int) -> Iterator[dict[str, Any]]:
    """Yield some fields of all entities of a collection, `size` of them in one request."""
    with closing(client.query_iterator(collection, batch_size=size, output_fields=fields)) as answers:
        while part := answers.next():
            yield from part


def batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most `CHUNK` items."""
    part = []
    for item in items:
        part.append(item)
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def digest(line: str) -> int:
    """Return the 8 bytes that identify a candidate, by its line or by its text, as a signed integer."""
    return int.from_bytes(text_digest(line, 8), "big", signed=True)
