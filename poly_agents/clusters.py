"""A store's candidates by cluster: what `certified` and `fast` search in.

Each cluster is a run of rows, so it is read in one go; its centre and radius bound the inner products of all of it:

    view . candidate  <=  view . centre + |view| radius

    FOLDER/clusters.safetensors    centres, radii, where each cluster starts, and the row of the store behind each row
    FOLDER/clusters.vectors        the store's vectors in that order, as plain numbers (.scales beside it for int8)
"""

import hashlib
import json
import math
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from tqdm import tqdm

from poly_agents import files
from poly_agents.store import Store
from poly_agents.vectors import Block, blocks

SAMPLE = 64  # candidates of each cluster, on average, that its centre is found with
ROWS = 2**13  # assigned at a time


class Clusters(NamedTuple):
    """A store by cluster; C clusters over N rows."""

    centres: Tensor  # [C, D] float32
    radii: Tensor  # [C]
    starts: Tensor  # [C + 1]
    order: Tensor  # [N] row of the store
    vectors: Tensor  # [N, D]
    scales: Tensor  # [N, 1] of int8, else [0, 1]
    norms: Tensor  # [N]

    def block(self, start: int, stop: int) -> Block:
        """Rows from `start` up to `stop`, in the order of the clusters."""
        scales = self.scales[start:stop] if len(self.scales) else None
        return Block(start, self.vectors[start:stop], scales, self.norms[start:stop])


def of(store: Store, progress: bool = True) -> Clusters:
    """Those of a store: as they lie beside it, or made and put there."""
    found = load(store)
    if found is None:
        make(store, progress)
        found = load(store)
    return found


def fingerprint(store: Store) -> str:
    return hashlib.sha256(json.dumps(store.segments).encode()).hexdigest()


def load(store: Store) -> Clusters | None:
    """What lies beside a store; None where it is nothing, of another state of the store, or damaged."""
    path = store.folder / "clusters.safetensors"
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    flat = store.folder / "clusters.vectors"
    if about.get("store") != fingerprint(store) or not flat.exists() or files.sha256(flat) != about.get("vectors"):
        return None
    kind, width = store.vectors.segments[0]["vectors"].dtype, tensors["centres"].shape[1]
    vectors = torch.from_file(str(flat), shared=False, size=len(store) * width, dtype=kind).view(-1, width)
    return Clusters(vectors=vectors, **tensors)


def make(store: Store, progress: bool) -> None:
    """Find the clusters of a store and write its vectors in their order; a slice at a time."""
    if not store.vectors.single:
        raise ValueError("clusters are of rankers that keep one vector a candidate: bi, poly, early")
    count = max(1, math.isqrt(len(store)))
    centres = find(store, count)
    nearest, distances, norms, scales = [], [], [], []
    bar = tqdm(total=2 * len(store), unit="cand", desc="clustering", disable=not progress)
    squares = centres.square().sum(-1)
    for block in blocks(store.vectors, ROWS):
        numbers = block.numbers(torch.arange(len(block.vectors)))
        squared = numbers.square().sum(-1, keepdim=True) + squares - 2 * numbers @ centres.T  # [n, C]
        best = squared.argmin(-1)
        nearest.append(best)
        distances.append((numbers - centres[best]).norm(dim=-1))
        norms.append(block.norms)
        scales.append(block.scales if block.scales is not None else torch.empty(0, 1))
        bar.update(len(best))
    nearest, distances = torch.cat(nearest), torch.cat(distances)
    order = nearest.argsort(stable=True)  # [N]
    place = order.argsort()
    radii = torch.zeros(count).scatter_reduce(0, nearest, distances, "amax") * (1 + 1e-5)  # and what rounding took
    starts = torch.cat([torch.zeros(1, dtype=torch.long), nearest.bincount(minlength=count).cumsum(0)])
    scales = torch.cat(scales)
    small = {"centres": centres, "radii": radii, "starts": starts, "order": order, "norms": torch.cat(norms)[order]}
    small["scales"] = scales[order] if len(scales) else scales
    width, kind = centres.shape[1], store.vectors.segments[0]["vectors"].dtype

    def sort(beside: str) -> None:
        sorted_ = torch.from_file(beside, shared=True, size=len(store) * width, dtype=kind).view(-1, width)
        for block in blocks(store.vectors, ROWS):
            sorted_[place[block.first : block.first + len(block.vectors)]] = block.vectors
            bar.update(len(block.vectors))

    files.replace(store.folder / "clusters.vectors", sort)
    about = {"store": fingerprint(store), "vectors": files.sha256(store.folder / "clusters.vectors")}
    files.replace(store.folder / "clusters.safetensors", lambda beside: save_file(small, beside, about))
    bar.close()


def find(store: Store, count: int) -> Tensor:
    """The centres [C, D], from a sample."""
    rows = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))[: SAMPLE * count].sort().values
    sample, first = [], 0
    for block in blocks(store.vectors, ROWS):
        own = rows[(rows >= first) & (rows < first + len(block.vectors))] - first
        sample.append(block.numbers(own))
        first += len(block.vectors)
    model = MiniBatchKMeans(count, batch_size=4096, n_init=1, max_iter=20, random_state=0, init="random")
    return torch.from_numpy(model.fit(torch.cat(sample).numpy()).cluster_centers_).float()
