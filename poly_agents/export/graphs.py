"""Export rankers as graphs that need no poly_agents: for ONNX runtimes, and for `torch.export.load`.

    candidate   framed ids [N, L], mask, segments  -> vectors [N, D]; of late [N, L, D]
    context     framed ids [B, L], mask, segments  -> views [B, K, D], of late [B, L, D]; a mask of the real ones
    score       views, vectors, and their masks    -> scores [B, N] of every context with every candidate
    pair        framed pairs [N, L], ...           -> scores [N], the only graph of a cross-encoder

Graphs compute in float32. All sizes but D and K are open. The encoder runs with padding, as in transformers. This
project leaves padding out on a processor (`encoders/packed.py`), but that depends on the data, which a graph cannot.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from poly_agents.encoders.backbone import Backbone, shallow_copy
from poly_agents.encoders.states import TokenStates
from poly_agents.errors import InputError, MissingPackageError
from poly_agents.export import files
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring.ranker import Ranker


class Graph(NamedTuple):
    """A module to export, with what torch.export has to know."""

    module: nn.Module
    example: dict[str, Tensor]  # input -> a tensor of the right shape
    sizes: dict[str, tuple[str, ...]]  # input -> names of its open sizes, first to last
    outputs: tuple[str, ...]


# --- modules ----------------------------------------------------------------------------------------------------------


class States(nn.Module):
    """Run an encoder, and a method of the ranker on its states: `ranker.METHOD(states [N, L, D], mask [N, L])`."""

    def __init__(self, ranker: Ranker, encoder: Backbone, method: str, with_mask: bool):
        """Choose the method. `with_mask` also returns which views are real."""
        super().__init__()
        self.model = encoder.model
        self.ranker = without_encoders(ranker)
        self.method = method
        self.with_mask = with_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None):
        """Take inputs as transformers names them, [N, L] each."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).last_hidden_state
        mask = attention_mask.bool()
        output = getattr(self.ranker, self.method)(hidden, mask)
        return (output, self.ranker.real_views(mask)) if self.with_mask else (output,)


class Score(nn.Module):
    """Score every context with every candidate, from the outputs of the other two graphs."""

    def __init__(self, ranker: Ranker):
        super().__init__()
        self.ranker = without_encoders(ranker)

    def forward(
        self, views: Tensor, vectors: Tensor, view_mask: Tensor | None = None, vector_mask: Tensor | None = None
    ):
        """Take views [B, K, D] and vectors [N, D] or [N, L, D], with the masks that the ranker has."""
        contexts = self.ranker.from_views(views, None if view_mask is None else view_mask.bool())
        candidates = vectors.unsqueeze(0)
        if vector_mask is not None:
            candidates = TokenStates(candidates, vector_mask.bool().unsqueeze(0))
        return (self.ranker.score_encoded(contexts, candidates),)


def without_encoders(ranker: Ranker) -> nn.Module:
    """Copy a ranker without its encoders. The file of a graph holds every weight of its module, used or not."""
    twin = shallow_copy(ranker)
    del twin._modules["context_encoder"], twin._modules["candidate_encoder"]
    return twin


# --- graphs -----------------------------------------------------------------------------------------------------------


def graphs_of(ranker: Ranker) -> dict[str, Graph]:
    """Make the graphs of a ranker, by name.

    Raises:
        ValueError: the ranker has neither the method `score_states` (of pairs) nor the methods `vector` and `views`,
            which compute from plain states [N, L, D] and their mask.
    """
    if hasattr(ranker, "score_states"):
        return {"pair": encoder_graph(ranker, ranker.context_encoder, "score_states", ("scores",))}
    if not hasattr(ranker, "views"):
        raise InputError(
            f"{type(ranker).__name__} runs layers in its own way, for which there is no graph; export a model of bi, "
            "poly, late or cross"
        )
    masked = ranker.real_views(torch.ones(2, 2, dtype=torch.bool)) is not None
    outputs = ("views", "view_mask") if masked else ("views",)
    candidate = encoder_graph(ranker, ranker.candidate_encoder, "vector", ("vectors",))
    context = encoder_graph(ranker, ranker.context_encoder, "views", outputs)
    return {"candidate": candidate, "context": context, "score": score_graph(ranker, context, candidate, masked)}


def encoder_graph(ranker: Ranker, encoder: Backbone, method: str, outputs: tuple[str, ...]) -> Graph:
    """Make the graph of a method on an encoder's states. A second output is the mask of real views."""
    no_padding = max(ranker.frame.special)  # some families count positions by the padding
    example = {"input_ids": torch.full((3, 5), no_padding), "attention_mask": torch.ones(3, 5, dtype=torch.long)}
    if encoder.segments:
        example["token_type_ids"] = torch.zeros(3, 5, dtype=torch.long)
    module = States(ranker, encoder, method, with_mask=len(outputs) > 1)
    return Graph(module, example, dict.fromkeys(example, ("rows", "tokens")), outputs)


def score_graph(ranker: Ranker, context: Graph, candidate: Graph, masked: bool) -> Graph:
    """Make the graph that scores the outputs of two others. `masked`: not all views are real."""
    with torch.no_grad():
        views, vectors = (graph.module(**graph.example)[0] for graph in (context, candidate))
    vectors = vectors[:2]  # fewer than the views: torch.export takes equal sizes for one size
    one_each = vectors.dim() == 2
    example = {"views": views, "vectors": vectors}
    sizes: dict[str, tuple[str, ...]] = {
        "views": ("contexts",) if one_each else ("contexts", "context_tokens"),
        "vectors": ("candidates",) if one_each else ("candidates", "tokens"),
    }
    if masked:
        example["view_mask"], sizes["view_mask"] = torch.ones(views.shape[:2], dtype=torch.long), sizes["views"]
    if not one_each:
        example["vector_mask"], sizes["vector_mask"] = torch.ones(vectors.shape[:2], dtype=torch.long), sizes["vectors"]
    return Graph(Score(ranker), example, sizes, ("scores",))


def program(graph: Graph, positions: int) -> ExportedProgram:
    """Export a graph with torch. `positions` is the number of positions of the encoder."""
    largest = {"tokens": positions, "context_tokens": positions}
    dims = {name: Dim(name, min=1, max=largest.get(name)) for names in graph.sizes.values() for name in names}
    shapes = {name: dict(enumerate(dims[each] for each in sizes)) for name, sizes in graph.sizes.items()}
    with torch.no_grad():
        return torch.export.export(graph.module.eval(), (), graph.example, dynamic_shapes=shapes)


# --- files ------------------------------------------------------------------------------------------------------------


def write_program(exported: ExportedProgram, graph: Graph, path: Path) -> Path:
    """Write `PATH.pt2`, which `torch.export.load` opens."""
    path = path.with_suffix(".pt2")
    torch.export.save(exported, path)
    return path


def write_onnx(exported: ExportedProgram, graph: Graph, path: Path) -> Path:
    """Write `PATH.onnx`. Weights of more than 2 GB are in a second file beside it."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(f"--to onnx needs onnxscript ({error}); pip install 'poly_agents[export]'") from error
    path = path.with_suffix(".onnx")
    # torch warns about its own code, and about torchvision, which is not used here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.onnx.export(
            exported, dynamo=True, verbose=False, input_names=list(graph.example), output_names=list(graph.outputs)
        )
        made.save(path)
    return path


Writer = Callable[[ExportedProgram, Graph, Path], Path]
WRITERS: dict[str, Writer] = {"onnx": write_onnx, "torch-export": write_program}


def write(model: TextRanker, format: str, folder: Path) -> None:
    """Write all graphs of a model, its tokenizer, `graphs.json` and README.

    Args:
        model: a model in float32.
        format: `onnx` or `torch-export`.
        folder: where to write.

    Raises:
        ValueError: there are no graphs for this ranker.
    """
    encoder, described = model.ranker.context_encoder, {}
    graphs = graphs_of(model.ranker)
    for name, graph in graphs.items():
        path = WRITERS[format](program(graph, encoder.positions), graph, folder / name)
        described[path.name] = describe(graph)
    separator = files.write_tokenizer(model.tokenizer, encoder, folder, encoder.positions)
    files.write_json(folder / "graphs.json", settings(model, described))
    files.write_readme(model, folder, separator, describe_use(graphs, model))


def describe(graph: Graph) -> dict[str, Any]:
    """Describe the inputs and outputs of a graph, as JSON. Open sizes have names, the others are numbers."""
    inputs = {}
    for name, example in graph.example.items():
        sizes = graph.sizes[name]
        shape = [*sizes, *example.shape[len(sizes) :]]
        inputs[name] = {"dtype": str(example.dtype).removeprefix("torch."), "shape": shape}
    return {"inputs": inputs, "outputs": list(graph.outputs)}


def settings(model: TextRanker, described: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `graphs.json`."""
    frame, token = model.ranker.frame, model.tokenizer.backend.id_to_token
    pieces = {"single": frame.single, "pair": frame.pair}
    return {
        "agent": model.header()["agent"],
        "graphs": described,
        "special_tokens": {
            kind: [[token(number) for number in piece.ids] for piece in own] for kind, own in pieces.items()
        },
        "pad_id": model.tokenizer.pad_id,
        "turn_token": token(model.tokenizer.turn_id),
        "context_prompt": list(frame.context_prompt),
        "candidate_prompt": list(frame.candidate_prompt),
        "text_truncate": model.text_truncate,
        "label_truncate": model.label_truncate,
    }


def describe_use(graphs: dict[str, Graph], model: TextRanker) -> str:
    """Say how to run the graphs."""
    sentences = [
        "`graphs.json` describes the inputs and outputs of every graph.",
        "`tokenizer.json` makes `input_ids` with all special tokens.",
        "`attention_mask` is 1 for real tokens.",
        "`token_type_ids`, if a graph takes them, are those of the tokenizer.",
    ]
    if "pair" in graphs:
        sentences.append("`pair` takes a context and a candidate in one row, and returns the score of each row.")
        return " ".join(sentences)
    sentences.append("`candidate` returns vectors to keep, `context` returns views, and `score` compares all of them.")
    if "view_mask" in graphs["score"].example:
        sentences.append("`view_mask` is 1 for real views.")
    if "vector_mask" in graphs["score"].example:
        sentences.append("`vector_mask` is the `attention_mask` of the candidates.")
    frame = model.ranker.frame
    if frame.context_prompt or frame.candidate_prompt:
        sentences.append("The ids of `context_prompt` and `candidate_prompt` come after the first special token.")
    return " ".join(sentences)
