"""Rankers as graphs that need no poly_agents: for ONNX runtimes, and for `torch.export.load`.

    candidate   framed ids [N, L], mask, segments  -> vectors [N, D], of late [N, L, D]
    context     framed ids [B, L], mask, segments  -> views [B, K, D], of late [B, L, D]; a mask where not all are real
    score       views, vectors, and their masks    -> scores [B, N] of every context with every candidate
    pair        framed pairs [N, L], ...           -> scores [N], all that a cross-encoder has

Float32, and every size but D and K is open. The encoder runs as transformers runs it: the way without padding that it
takes on a processor here (`packed.py`) depends on the data, which a graph cannot.
"""

import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from poly_agents.encoders.backbone import Backbone, shallow_copy
from poly_agents.encoders.states import TokenStates
from poly_agents.scoring.ranker import Ranker


class Graph(NamedTuple):
    module: nn.Module
    example: dict[str, Tensor]  # input -> a tensor of the right shape
    sizes: dict[str, tuple[str, ...]]  # input -> the names of its open sizes, first to last
    outputs: tuple[str, ...]


class States(nn.Module):
    """The plain encoder, and what is made of its states: `ranker.NAME(states, mask)`, and which views are real."""

    def __init__(self, ranker: Ranker, encoder: Backbone, name: str, masked: bool):
        super().__init__()
        self.model = encoder.model
        self.ranker = without_encoders(ranker)
        self.name = name
        self.masked = masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None):
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        mask = attention_mask.bool()
        found = getattr(self.ranker, self.name)(hidden, mask)
        return (found, self.ranker.real_views(mask)) if self.masked else (found,)


class Score(nn.Module):
    """Prepared contexts and encoded candidates, with a mask where there is one."""

    def __init__(self, ranker: Ranker):
        super().__init__()
        self.ranker = without_encoders(ranker)

    def forward(self, views: Tensor, vectors: Tensor, view_mask=None, vector_mask=None):
        prepared = self.ranker.from_views(views, None if view_mask is None else view_mask.bool())
        kept = vectors.unsqueeze(0)
        if vector_mask is not None:
            kept = TokenStates(kept, vector_mask.bool().unsqueeze(0))
        return (self.ranker.score_encoded(prepared, kept),)


def without_encoders(ranker: Ranker) -> nn.Module:
    """What a ranker has besides: a graph's file holds every weight of its module, used or not."""
    twin = shallow(ranker)
    del twin._modules["context_encoder"], twin._modules["candidate_encoder"]
    return twin


def of(ranker: Ranker) -> dict[str, Graph]:
    """The graphs of a ranker, by name.

    A system has them if it has `vector` and `views` (or `score_states`, for pairs), which take plain states and a mask.
    Raises ValueError for any other.
    """
    if hasattr(ranker, "score_states"):
        return {"pair": encoder_graph(ranker, ranker.context_encoder, "score_states", "scores")}
    if not hasattr(ranker, "views"):
        raise ValueError(
            f"{type(ranker).__name__} runs layers in its own way, for which there is no graph; there are those of bi, "
            "poly, late and cross"
        )
    masked = ranker.real_views(torch.ones(2, 2, dtype=torch.bool)) is not None
    graphs = {
        "candidate": encoder_graph(ranker, ranker.candidate_encoder, "vector", "vectors"),
        "context": encoder_graph(ranker, ranker.context_encoder, "views", "views", masked),
    }
    with torch.no_grad():
        views, vectors = (graph.module(**graph.example)[0] for graph in (graphs["context"], graphs["candidate"]))
    late = vectors.dim() == 3
    example = {"views": views, "vectors": vectors[:2]}  # of sizes that differ: equal ones would be taken for one
    sizes = {"views": ("contexts", *["context_tokens"] * late), "vectors": ("candidates", *["tokens"] * late)}
    for name, there in (("view", masked), ("vector", late)):
        if there:
            example[f"{name}_mask"] = torch.ones(example[f"{name}s"].shape[:2], dtype=torch.long)
            sizes[f"{name}_mask"] = sizes[f"{name}s"]
    return graphs | {"score": Graph(Score(ranker), example, sizes, ("scores",))}


def encoder_graph(ranker: Ranker, encoder: Backbone, name: str, output: str, masked: bool = False) -> Graph:
    inputs = ["input_ids", "attention_mask", *["token_type_ids"] * encoder.segments]
    example = {key: torch.full((3, 5), int(key == "attention_mask")) for key in inputs}
    example["input_ids"] += max(ranker.frame.special)  # not the padding, by which some families count positions
    states = States(ranker, encoder, name, masked)
    return Graph(states, example, dict.fromkeys(inputs, ("rows", "tokens")), (output, *["view_mask"] * masked))


def program(graph: Graph, positions: int) -> ExportedProgram:
    """A graph as PyTorch has it."""
    largest = {"tokens": positions, "context_tokens": positions}
    dims = {name: Dim(name, min=1, max=largest.get(name)) for names in graph.sizes.values() for name in names}
    shapes = {name: dict(enumerate(dims[each] for each in sizes)) for name, sizes in graph.sizes.items()}
    with torch.no_grad():
        return torch.export.export(graph.module.eval(), (), graph.example, dynamic_shapes=shapes)


def write_program(exported: ExportedProgram, graph: Graph, path: Path) -> Path:
    """`NAME.pt2`, which `torch.export.load` reads."""
    path = path.with_suffix(".pt2")
    torch.export.save(exported, path)
    return path


def write_onnx(exported: ExportedProgram, graph: Graph, path: Path) -> Path:
    """`NAME.onnx`; weights of more than 2 GB lie beside it."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--to onnx needs onnxscript ({error}); pip install 'poly_agents[export]'") from error
    path = path.with_suffix(".onnx")
    # torch warns of itself and of torchvision, which has no part in this
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.onnx.export(
            exported, dynamo=True, verbose=False, input_names=list(graph.example), output_names=list(graph.outputs)
        )
        made.save(path)
    return path


WRITERS = {"onnx": write_onnx, "torch-export": write_program}
