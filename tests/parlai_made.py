"""Small models of ParlAI's own rankers, made and saved by ParlAI itself."""

from pathlib import Path

import torch
from parlai.core.agents import create_agent, create_agent_from_model_file
from parlai.core.dict import DictionaryAgent
from parlai.core.message import Message
from parlai.core.opt import Opt
from parlai.core.params import ParlaiParser

import poly_agents
from tests.encoders import WORDS

NAMES = {"bi": "biencoder", "poly": "polyencoder", "cross": "crossencoder"}
TINY = dict(embedding_size=24, ffn_size=28, n_layers=2, n_heads=4, n_positions=64, text_truncate=17, label_truncate=7)
# options of the published checkpoints, with smaller sizes
PUBLISHED = dict(
    variant="xlm",
    activation="gelu",
    embeddings_scale=False,
    learn_positional_embeddings=True,
    n_segments=2,
    output_scaling=0.06,
    dict_tokenizer="bpe",
    dict_lower=True,
    dict_endtoken="__start__",
    dict_maxtokens=90,
    reduction_type="mean",
    share_encoders=False,
    share_word_embeddings=False,
    learn_embeddings=True,
    history_size=20,
    dropout=0.1,
    attention_dropout=0.1,
    fp16=False,
)


def make(agent: str, options: dict, path: str, data: str = "") -> str:
    """Save a model of ParlAI with every weight random, norms and biases too."""
    task = {"task": "poly_agents:jsonl", "jsonl_path": data, "batchsize": 4, "model_file": path}
    given = {"model": f"transformer/{NAMES[agent]}"} | task | {"candidates": "inline"} | TINY | options
    opt = ParlaiParser(True, True).parse_kwargs(**given)
    opt["dict_file"] = f"{path}.dict"
    build_dictionary(opt)
    made = create_agent(opt)
    torch.manual_seed(7)
    for name, parameter in made.model.named_parameters():
        if parameter.requires_grad:
            spread, middle = (0.15, float(name.endswith("weight"))) if "norm" in name else (0.3, 0.0)
            parameter.data = torch.randn_like(parameter) * spread + middle
    made.save(path)
    return path


def build_dictionary(opt) -> None:
    dictionary = DictionaryAgent(Opt(opt))
    for word in WORDS * 3:
        dictionary.add_to_dict(dictionary.tokenize(word))
    dictionary.add_to_dict(dictionary.tokenize("\n . , ?"))
    dictionary.save(sort=True)


def files_of(path: str, folder: str) -> dict[str, bytes]:
    """Return the files of a model as an archive of ParlAI's zoo holds them."""
    return {f"{folder}{file.name}": file.read_bytes() for file in Path(path).parent.iterdir()}


CANDIDATES = [
    "fine",
    "my cat is blue",
    "one two three four five",
    "one two three four five six",
    "a b c d e f g h i",
]


def their_scores(path: str, context: list[str], candidates: list[str]) -> torch.Tensor:
    """Score one context with ParlAI, one candidate at a time, because padding changes its scores with some options."""
    agent = create_agent_from_model_file(path, {"datatype": "valid"})
    agent.model.eval()
    found = []
    for candidate in candidates:
        agent.reset()
        for turn in context[:-1]:
            agent.history.update_history(Message(text=turn))
        observed = agent.observe(
            Message(text=context[-1], label_candidates=[candidate], eval_labels=[candidate], episode_done=True)
        )
        batch = agent.batchify([observed])
        with torch.no_grad():
            vectors = batch.candidate_vecs[0][0].view(1, 1, -1)
            found.append(agent.score_candidates(batch, vectors).view(-1))
    return torch.cat(found)


def wide(agent: str) -> dict:
    """Return options with which padding does not change ParlAI's scores."""
    return PUBLISHED | {"reduction_type": "first" if agent == "cross" else "mean"}


def scores(path: str) -> torch.Tensor:
    """Score the candidates for one context by a model file."""
    model = poly_agents.load(path, "float32")
    found = {ranked.text: ranked.score for ranked in model.rank("hello\nhow are you", CANDIDATES)}
    return torch.tensor([found[text] for text in CANDIDATES])
