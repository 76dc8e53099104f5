"""Exported models, opened by the other library: equal embeddings and equal scores."""

import subprocess
import sys

import onnxruntime
import pytest
import torch
from parlai.core.script import superscript_main
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import poly_agents
from poly_agents import zoo
from poly_agents.export import export
from poly_agents.models.textranker import TextRanker
from tests.encoders import make_encoder

CONTEXTS = ["hello how are you\nfine thanks\nwhat is your name", "my cat", "six"]  # of several turns, and of one
CANDIDATES = ["fine thanks", "what is your name", "blue", "one two three four five"]
PLAIN = {"precision": "float32"}
PROMPTS = {"context_prompt": "name is ", "candidate_prompt": "dog "}


def shaken(agent: str, backbone: str, **options) -> TextRanker:
    """Make a ranker with noise on every weight, as if it were trained."""
    model = poly_agents.start(agent, backbone=backbone, text_truncate=31, label_truncate=13, **PLAIN, **options)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.ranker.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.no_grad()
def scores(model: TextRanker) -> torch.Tensor:
    return model.ranker.score_ids(model.context_ids(CONTEXTS), model.encode(CANDIDATES))


# --- sentence-transformers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "distilbert", "electra", "modernbert"])
def test_sentence_transformers_opens_a_bi_encoder(encoders, family, tmp_path):
    model = shaken("bi", encoders[family], reduction="first", **PROMPTS)
    export(model, "sentence-transformers", tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    candidates = torch.tensor(theirs.encode_document(CANDIDATES))
    assert_close(candidates, model.encode(CANDIDATES), atol=1e-5, rtol=1e-4)
    contexts = torch.tensor(theirs.encode_query(CONTEXTS))
    assert_close(20 * contexts @ candidates.T, scores(model), atol=1e-4, rtol=1e-4)


def test_dense_layer_pooling_and_dot_product_are_exported(tiny, tmp_path):
    model = shaken("bi", tiny, reduction="max", bi_dense=11, bi_cosine=False)
    export(model, "sentence-transformers", tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert theirs.similarity_fn_name == "dot"
    contexts, candidates = theirs.encode(CONTEXTS), theirs.encode(CANDIDATES)
    assert_close(theirs.similarity(contexts, candidates), scores(model), atol=1e-4, rtol=1e-4)


def test_an_exported_model_can_be_the_backbone_of_another(tiny, tmp_path):
    for agent, options in {
        "bi": {"bi_dense": 11, "reduction": "sqrt"},
        "late": {"late_width": 7, "late_scale": 0.0},
    }.items():
        model = shaken(agent, tiny, **options, **PROMPTS)
        export(model, "sentence-transformers", tmp_path / agent)
        again = poly_agents.start(agent, backbone=str(tmp_path / agent), **PLAIN)
        assert_close(scores(again), scores(model), atol=1e-5, rtol=1e-5)


def test_two_encoders_are_two_folders(tiny, tmp_path):
    model = shaken("bi", tiny, share_encoders=False)
    export(model, "sentence-transformers", tmp_path / "out")
    contexts, candidates = (
        torch.tensor(SentenceTransformer(str(tmp_path / "out" / side), device="cpu").encode(texts))
        for side, texts in (("context", CONTEXTS), ("candidate", CANDIDATES))
    )
    assert_close(20 * contexts @ candidates.T, scores(model), atol=1e-4, rtol=1e-4)


def test_the_embedded_minilm_goes_there_and_back(tmp_path):
    model = poly_agents.start("bi", **PLAIN)
    texts = ["Hello there!\nHow are you?\nFine, and you?", "the cat sat on the mat 🙂"]
    export(model, "sentence-transformers", tmp_path / "out")
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert_close(torch.tensor(theirs.encode(texts)), model.encode(texts), atol=1e-5, rtol=1e-4)
    original = SentenceTransformer(zoo.backbone("minilm"), device="cpu")
    assert_close(theirs.encode(texts[1:]), original.encode(texts[1:]), atol=1e-5, rtol=1e-4)


PAIRS = [(context, text) for context in CONTEXTS for text in CANDIDATES]
OWN = {"bert": "pooled", "roberta": "pooled", "mpnet": "pooled", "electra": "gelu", "distilbert": "relu"}


OTHER = [("modernbert", "normed"), ("modernbert", "normed mean"), ("bert", "linear"), ("roberta", "linear max")]


@pytest.mark.parametrize(("family", "head"), [*OWN.items(), *OTHER])
def test_sentence_transformers_opens_a_cross_encoder_and_it_comes_back(encoders, family, head, tmp_path):
    kind, _, reduction = head.partition(" ")
    model = shaken("cross", encoders[family], cross_head=kind, reduction=reduction or "first")
    export(model, "sentence-transformers", tmp_path / "out")
    predicted = CrossEncoder(str(tmp_path / "out"), device="cpu").predict(PAIRS)
    assert_close(torch.tensor(predicted).view(3, 4), scores(model), atol=1e-4, rtol=1e-4)
    again = poly_agents.start("cross", backbone=str(tmp_path / "out"), **PLAIN)
    assert_close(scores(again), scores(model), atol=1e-5, rtol=1e-5)


def test_transformers_opens_a_cross_encoder(tiny, tmp_path):
    model = shaken("cross", tiny, cross_head="pooled")
    export(model, "huggingface", tmp_path / "out")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.num_labels == 1
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(
        *map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt"
    )
    assert_close(theirs(**inputs).logits.view(3, 4), scores(model), atol=1e-4, rtol=1e-4)


def test_transformers_opens_a_bi_encoder(tiny, tmp_path):
    model = shaken("bi", tiny, bi_cosine=False)
    export(model, "huggingface", tmp_path / "out")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(CANDIDATES, padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(tmp_path / "out").eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    assert_close((states * mask).sum(1) / mask.sum(1), model.encode(CANDIDATES), atol=1e-5, rtol=1e-4)


MARKS = {"context_prompt": "[unused0]", "candidate_prompt": "[unused1]"}


@pytest.mark.parametrize("prompts", [{}, {"context_prompt": "six", "candidate_prompt": "dog blue"}, MARKS])
def test_sentence_transformers_opens_late_interaction(tmp_path, prompts):
    """Without prompts, with texts, and with marks that PyLate inserts by their ids."""
    folder = make_encoder(tmp_path / "encoder", "bert")
    text = (tmp_path / "encoder" / "tokenizer.json").read_text()
    for number, word in enumerate(("five", "four")):
        text = text.replace(f'"{word}"', f'"[unused{number}]"')
    (tmp_path / "encoder" / "tokenizer.json").write_text(text)
    model = shaken("late", folder, late_width=7, late_scale=0.0, **prompts)
    export(model, "sentence-transformers", tmp_path / "out")
    theirs = MultiVectorEncoder(str(tmp_path / "out"), device="cpu")
    contexts, candidates = theirs.encode_query(CONTEXTS), theirs.encode_document(CANDIDATES)
    found = torch.stack([torch.stack([(x @ y.T).amax(-1).sum() for y in candidates]) for x in contexts])
    assert_close(found, scores(model), atol=1e-4, rtol=1e-4)


# --- graphs ---------------------------------------------------------------------------------------------------------

VARIANTS = {"bi": {}, "poly": {"poly_codes": 5, "poly_views": "last-first"}}


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory) -> str:
    return make_encoder(tmp_path_factory.mktemp("encoder"), "bert", num_hidden_layers=1)


def run_onnx(folder, name: str, inputs: dict) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    wanted = [each.name for each in session.get_inputs()]
    return [torch.tensor(x) for x in session.run(None, {key: inputs[key].numpy() for key in wanted})]


def encoded(folder, *texts) -> dict[str, torch.Tensor]:
    return dict(AutoTokenizer.from_pretrained(folder)(*texts, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("agent", ["bi", "poly"])
def test_onnxruntime_gives_the_same_scores_for_any_number_of_texts(one_layer, agent, tmp_path):
    """Only files of the folder are read: its tokenizer and its graphs."""
    model = shaken(agent, one_layer, **VARIANTS[agent])
    folder = tmp_path / "out"
    export(model, "onnx", folder)
    for contexts, candidates in ((3, 4), (1, 4), (2, 1), (1, 1)):
        views, *mask = run_onnx(folder, "context", encoded(folder, CONTEXTS[:contexts]))
        (vectors,) = run_onnx(folder, "candidate", encoded(folder, CANDIDATES[:candidates]))
        inputs = {"views": views, "vectors": vectors} | ({"view_mask": mask[0].long()} if mask else {})
        (found,) = run_onnx(folder, "score", inputs)
        assert_close(found, scores(model)[:contexts, :candidates], atol=1e-4, rtol=1e-4)


def test_onnxruntime_scores_pairs_as_the_cross_encoder_does(one_layer, tmp_path):
    model = shaken("cross", one_layer)
    export(model, "onnx", tmp_path / "out")
    for count in (len(PAIRS), 1):
        inputs = encoded(tmp_path / "out", *map(list, zip(*PAIRS[:count], strict=True)))
        (found,) = run_onnx(tmp_path / "out", "pair", inputs)
        assert_close(found, scores(model).flatten()[:count], atol=1e-4, rtol=1e-4)


ALONE = """
import sys, torch
folder, given = sys.argv[1:]
inputs = torch.load(given)
run = lambda name, given: torch.export.load(f"{folder}/{name}.pt2").module()(**given)
views, mask = run("context", inputs["context"])
(vectors,) = run("candidate", inputs["candidate"])
masks = {"view_mask": mask.long(), "vector_mask": inputs["candidate"]["attention_mask"]}
(scores,) = run("score", {"views": views, "vectors": vectors} | masks)
heavy = ("transformers", *(f"poly_agents.{room}" for room in ("models", "rankers", "scoring", "encoders", "agents")))
assert not [name for name in sys.modules if name.startswith(heavy)]
torch.save(scores, given)
"""


def test_a_process_without_poly_agents_loads_the_graphs_of_pytorch(one_layer, tmp_path):
    model, folder = shaken("late", one_layer, late_width=7), tmp_path / "out"
    written = export(model, "torch-export", folder)
    assert {path.name for path in written} >= {"candidate.pt2", "context.pt2", "score.pt2", "README.md", "graphs.json"}
    sizes = {path.name: path.stat().st_size for path in written}
    assert sizes["score.pt2"] < sizes["context.pt2"] - 4 * sum(
        x.numel() for x in model.ranker.context_encoder.parameters()
    )
    inputs = {"context": encoded(folder, CONTEXTS), "candidate": encoded(folder, CANDIDATES)}
    torch.save(inputs, tmp_path / "given")
    subprocess.run([sys.executable, "-c", ALONE, folder, tmp_path / "given"], check=True)
    assert_close(torch.load(tmp_path / "given"), scores(model), atol=1e-4, rtol=1e-4)


# --- refusals, and the command --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "options", "to", "message"),
    [
        ("poly", {}, "sentence-transformers", "has no format for poly, only for bi, cross, late; --to onnx"),
        ("late", {}, "huggingface", "huggingface has no format for late, only for bi, cross"),
        ("mix", {}, "onnx", "MixRanker runs layers in its own way"),
        ("bi", {"bi_dense": 11}, "huggingface", "AutoModel has no dense layer after its states; take --to sentence"),
        ("bi", {"reduction": "first-m"}, "sentence-transformers", "no pooling for --reduction first-m; take --to onnx"),
        (
            "cross",
            {"cross_head": "linear"},
            "huggingface",
            "needs --cross-head pooled and --reduction first for bert; this model has linear",
        ),
        ("late", {"share_encoders": False}, "sentence-transformers", "one encoder for both sides, this model has one"),
        ("bi", {}, "tensorflow", "--to tensorflow: there are sentence-transformers, huggingface, onnx, torch-export"),
    ],
)
def test_a_model_without_a_counterpart_is_refused(tiny, tmp_path, agent, options, to, message):
    with pytest.raises(ValueError, match=message):
        export(shaken(agent, tiny, **options), to, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_lower_precision_and_a_full_folder_are_refused(tiny, tmp_path):
    model = poly_agents.start("bi", backbone=tiny, precision="bfloat16")
    with pytest.raises(ValueError, match="an export is in float32; load the model with precision='float32'"):
        export(model, "huggingface", tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already and not empty; give another path"):
        export(shaken("bi", tiny), "huggingface", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_writes_a_folder_and_lists_its_files(trained, tmp_path, capsys):
    command = ["poly_export", "-mf", trained["bi"], "--to", "sentence-transformers", "--out", str(tmp_path / "out")]
    superscript_main(command)
    said = capsys.readouterr().out
    assert str(tmp_path / "out" / "model.safetensors") in said
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "oldest first, with a newline" in readme
    assert "their cosine times 20" in readme
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    model = poly_agents.load(trained["bi"], "float32")
    assert_close(torch.tensor(theirs.encode(CANDIDATES)), model.encode(CANDIDATES), atol=1e-5, rtol=1e-4)
