"""The sides of `peers.py`. Each runs in a process of its own and does a piece of its job whenever it is its turn.

ParlAI's rankers are its own classes. What is put into them: MiniLM's weights (BERT is its transformer `xlm` with learnt
positions and segments), its tokeniser, and of a candidate that a cross-encoder reads no second [CLS], so that every
side reads the same ids. On both sides contexts and candidates have an encoder each, and word embeddings stay frozen.
"""

import json
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from parlai.agents.transformer.biencoder import BiencoderAgent
from parlai.agents.transformer.crossencoder import CrossencoderAgent
from parlai.agents.transformer.polyencoder import PolyencoderAgent
from parlai.core.agents import create_agent
from parlai.core.params import ParlaiParser
from parlai.core.worlds import create_task
from parlai.utils import logging
from rankers import machine
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from poly_agents import plugin, zoo
from poly_agents.agents.dictionary import TokenizerDictionary
from poly_agents.candidates.search import Search, SearchOptions
from poly_agents.models import textranker
from poly_agents.models.textranker import TextRanker
from poly_agents.scoring.ranker import Ranker, each
from poly_agents.tasks.chitchat import conversations, examples
from poly_agents.text.tokenizer import Tokenizer

CODES = 64
CONTEXT, CANDIDATE = 96, 32  # tokens of training and evaluation, without the special ones
LONG = 126  # tokens of a long text: 128 with the special ones
NEGATIVES = 3  # of the cross-encoder in training
ENCODED = 1024  # texts of the pool that are encoded; the others get the mean of two of their vectors
SOME = 64  # of our stores, in every two thousand
Run = Callable[[int], int]  # turn -> units of work done

# --- ParlAI's rankers with MiniLM inside ------------------------------------------------------------------------------


class Dictionary(TokenizerDictionary):
    """MiniLM's tokeniser; ParlAI frames a text with its start and end token."""

    def __init__(self, opt, shared=None):
        super().__init__(opt, shared)
        self.start_token, self.end_token = "[CLS]", "[SEP]"


def bert() -> nn.Module:
    """MiniLM as transformers loads it."""
    return AutoModel.from_pretrained(zoo.backbone("minilm"), dtype=torch.float32).eval()


def copy_minilm(*encoders: nn.Module) -> None:
    """MiniLM's weights into ParlAI's encoders."""
    model = bert()
    for encoder in encoders:
        below = model.embeddings
        pairs = [
            (encoder.embeddings, below.word_embeddings),
            (encoder.position_embeddings, below.position_embeddings),
            (encoder.segment_embeddings, below.token_type_embeddings),
            (encoder.norm_embeddings, below.LayerNorm),
        ]
        for own, layer in zip(encoder.layers, model.encoder.layer, strict=True):
            attention = layer.attention
            pairs += [
                (own.attention.q_lin, attention.self.query),
                (own.attention.k_lin, attention.self.key),
                (own.attention.v_lin, attention.self.value),
                (own.attention.out_lin, attention.output.dense),
                (own.norm1, attention.output.LayerNorm),
                (own.ffn.lin1, layer.intermediate.dense),
                (own.ffn.lin2, layer.output.dense),
                (own.norm2, layer.output.LayerNorm),
            ]
        for own, theirs in pairs:
            own.load_state_dict(theirs.state_dict())
            if isinstance(own, nn.LayerNorm):
                own.eps = theirs.eps  # BERT's 1e-12 for ParlAI's 1e-5, which would cost three thousandths
        encoder.embeddings.weight.requires_grad_(False)


class ParlaiBi(BiencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.context_encoder, model.cand_encoder)
        return model


class ParlaiPoly(PolyencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.encoder_ctxt, model.encoder_cand)
        return model


class ParlaiCross(CrossencoderAgent):
    @staticmethod
    def dictionary_class():
        return Dictionary

    def build_model(self, states=None):
        model = super().build_model(states)
        copy_minilm(model.encoder)
        return model

    def score_candidates(self, batch, cand_vecs, cand_encs=None):
        return super().score_candidates(batch, cand_vecs[..., 1:], cand_encs)


# --- sides ------------------------------------------------------------------------------------------------------------


class Side:
    """Makes ready for a job, given by the name of its method and an argument."""

    def __init__(self, folder: Path, quick: bool):
        self.folder = folder
        self.quick = quick
        self.data = json.loads((folder / "data.json").read_text()) if (folder / "data.json").exists() else {}

    def texts(self, length: str, turn: int) -> list[str]:
        """Some texts to be encoded, others every turn."""
        texts, size = self.data[length], (32 if self.quick else {"short": 512, "long": 128}[length])
        first = turn * size % (len(texts) - size)
        return texts[first : first + size]

    def context(self, turn: int) -> str:
        return self.data["contexts"][turn % len(self.data["contexts"])]

    def candidates(self, turn: int) -> list[str]:
        pool = self.data["pairs"]
        return [pool[(100 * turn + number) % len(pool)] for number in range(100)]


class InParlai(Side, ABC):
    """Jobs that are done through ParlAI's own loops, by its own agents and by ours."""

    @abstractmethod
    def flags(self, kind: str, text: int, label: int) -> str:
        """Which agent, and its options; the lengths are those of bare texts."""

    def agent(self, kind: str, more: str, text: int = CONTEXT, label: int = CANDIDATE):
        opt = ParlaiParser(True, True).parse_args([*self.flags(kind, text, label).split(), *more.split()])
        opt["tokenizer_source"] = "minilm"
        return create_agent(opt)

    def train(self, kind: str) -> Run:
        size = {"cross": 16}.get(kind, 8 if self.quick else 64)
        task = "poly_agents:chitchat -cands batch"
        if kind == "cross":
            task = f"poly_agents:jsonl --jsonl-path {self.folder / 'train.jsonl'} -cands inline"
        return self.world(kind, f"-t {task} -dt train -bs {size} -opt adamw -lr 1e-4", size)

    def evaluate(self, kind: str) -> Run:
        size = {"cross": 8}.get(kind, 8 if self.quick else 64)
        return self.world(kind, f"-t poly_agents:chitchat -dt valid -bs {size} -ecands inline", size)

    def world(self, kind: str, more: str, size: int) -> Run:
        """The loop of train_model and eval_model: one batch a turn."""
        agent = self.agent(kind, more)
        world = create_task(agent.opt, agent)

        def parley(turn: int) -> int:
            if world.epoch_done():
                world.reset()
            world.parley()
            return size

        return parley

    def chat(self, kind: str) -> Run:
        agent = self.agent(kind, f"-dt valid -ecands fixed -fcp {self.folder / 'pool.txt'} {self.kept(kind)}", LONG)

        def reply(turn: int) -> int:
            agent.observe({"id": "user", "text": self.context(turn), "episode_done": True})
            assert agent.act()["text"]
            return 1

        return reply

    def kept(self, kind: str) -> str:
        """Options by which the pool's vectors are found."""
        return ""

    def pairs(self, kind: str) -> Run:
        agent = self.agent(kind, "-dt valid -ecands inline", LONG)

        def reply(turn: int) -> int:
            given = {"label_candidates": self.candidates(turn), "episode_done": True}
            agent.observe({"id": "user", "text": self.context(turn)} | given)
            assert len(agent.act()["text_candidates"]) == 100
            return 100

        return reply


class Parlai(InParlai):
    def flags(self, kind, text, label):
        return (
            f"-m sides:Parlai{kind.capitalize()} --text-truncate {text} --label-truncate {label + 2} "
            "--embedding-size 384 --n-layers 6 --ffn-size 1536 --n-heads 12 --variant xlm --activation gelu "
            "--learn-positional-embeddings true --n-positions 512 --n-segments 2 --embeddings-scale false "
            f"--share-encoders false --learn-embeddings false --reduction-type {'first' if kind == 'cross' else 'mean'}"
        )

    def encode(self, length: str) -> Run:
        agent = self.agent("bi", "-dt valid", label=LONG)

        def encode(turn: int) -> int:
            vectors = agent._make_candidate_encs(agent._make_candidate_vecs(self.texts(length, turn)))
            return len(vectors)

        return encode

    def kept(self, kind):
        return f"-mf {self.folder / kind}"  # beside which ParlAI looks for ids and vectors of the pool


class Ours(InParlai):
    """Through the agents."""

    precision = "auto"

    def flags(self, kind, text, label):
        own = {"bi": "--bi-cosine false", "poly": f"--poly-codes {CODES}"}.get(kind, "")
        return (
            f"-m poly_agents/{kind} --text-truncate {text} --label-truncate {label} {own} "
            f"--share-encoders false --precision {self.precision}"
        )

    def model(self, kind: str, text: int = LONG, label: int = CANDIDATE) -> TextRanker:
        """The same ranker without ParlAI."""
        return ours(kind, self.precision, text, label)

    def encode(self, length: str) -> Run:
        model = self.model("bi", label=LONG)
        return lambda turn: len(model.encode(self.texts(length, turn)))

    def chat(self, kind):
        encode_some()
        return super().chat(kind)

    def kept(self, kind):
        return f"--fixed-candidate-vecs {self.folder / f'{kind}-{self.precision}.store'}"


class Ours32(Ours):
    precision = "float32"


class OursPython(Ours):
    """Without ParlAI."""

    def chat(self, kind):
        encode_some()
        model = self.model(kind)
        store = model.index(self.folder / f"{kind}-python.store", self.folder / "pool.txt", progress=False)
        kept = Search(store, SearchOptions())
        return lambda turn: len(model.search(self.context(turn), kept, top=1))

    def pairs(self, kind):
        model = self.model(kind)
        return lambda turn: len(model.rank(self.context(turn), self.candidates(turn)))


class SentenceTransformers(Side):
    precision = torch.float32

    def encoder(self):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(zoo.backbone("minilm"), device="cpu", model_kwargs={"dtype": self.precision})
        model.max_seq_length = LONG + 2
        return model

    def encode(self, length: str) -> Run:
        model = self.encoder()
        return lambda turn: len(model.encode(self.texts(length, turn), show_progress_bar=False))

    def chat(self, kind: str) -> Run:
        from sentence_transformers import util

        model = self.encoder()
        pool = normalize(torch.load(self.folder / "pool.pt"), dim=-1).to(self.precision)

        def reply(turn: int) -> int:
            query = model.encode([separated(self.context(turn))], convert_to_tensor=True, show_progress_bar=False)
            return len(util.semantic_search(query, pool, top_k=1, score_function=util.dot_score))

        return reply

    def pairs(self, kind: str) -> Run:
        model = self.cross()

        def predict(turn: int) -> int:
            context = separated(self.context(turn))
            return len(model.predict([(context, c) for c in self.candidates(turn)], show_progress_bar=False))

        return predict

    def cross(self):
        from sentence_transformers import CrossEncoder

        own = {"dtype": self.precision}
        return CrossEncoder(zoo.backbone("minilm"), num_labels=1, device="cpu", max_length=256, model_kwargs=own)


class SentenceTransformers16(SentenceTransformers):
    precision = torch.bfloat16


class Limits(Side):
    """What the machine can do at most: FLOP and bytes a second."""

    def encode(self, length: str) -> Run:
        size = 512 if self.quick else 2048
        left, right = torch.randn(2, size, size).to(self.dtype)
        for _ in range(3):
            left @ right

        def multiply(turn: int) -> int:
            for _ in range(4):
                left @ right
            return 4 * 2 * size**3

        return multiply


class Products16(Limits):
    dtype = torch.bfloat16


class Products32(Limits):
    dtype = torch.float32


class Memory(Side):
    def encode(self, length: str) -> Run:
        pool, vector = torch.ones(100_000, 768), torch.ones(768)

        def read(turn: int) -> int:
            torch.mv(pool, vector)
            return pool.nbytes

        return read


SIDES = {
    "poly_agents": Ours,
    "poly_agents, Python": OursPython,
    "poly_agents, float32": Ours32,
    "ParlAI": Parlai,
    "sentence-transformers": SentenceTransformers,
    "sentence-transformers, bfloat16": SentenceTransformers16,
    "products, bfloat16": Products16,
    "products, float32": Products32,
    "memory": Memory,
}


def ours(kind: str, precision: str, text: int = LONG, label: int = CANDIDATE) -> TextRanker:
    """Our ranker as it starts; learnt codes and heads come from a fixed seed."""
    tokenizer = Tokenizer.pretrained(zoo.backbone("minilm"))
    cls = textranker.ranker_class(kind)
    own = {"bi": {"bi_cosine": False}, "poly": {"poly_codes": CODES}}.get(kind, {})
    torch.manual_seed(0)
    options = cls.Options(share_encoders=False, precision=precision, **own)
    ranker = textranker.build(cls, options, tokenizer, None, "cpu").eval()
    ranker.lower_precision()
    return TextRanker(ranker, tokenizer, text, label)


def separated(context: str) -> str:
    """Turns parted for a tokeniser of transformers."""
    return context.replace("\n", " [SEP] ")


def encode_some() -> None:
    """From now on our rankers encode the first texts of a large pool and mix the vectors of the others from theirs."""
    encode = Ranker.encode_parts

    def encode_parts(self, parts, done=None):
        ids = [row for part in parts for row in part]
        return mixed(encode(self, [ids[:SOME]]), len(ids))

    Ranker.encode_parts = encode_parts


def mixed(kept: Any, rows: int) -> Any:
    """More rows: each the mean of two."""
    encoded = len(kept if isinstance(kept, Tensor) else kept[0])
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randint(encoded, (2, max(0, rows - encoded)), generator=generator)
    return each(lambda part: torch.cat([part, (0.5 * part[one] + 0.5 * part[other]).to(part.dtype)]), kept)


# --- before anything is timed -----------------------------------------------------------------------------------------


def prepare(folder: Path, quick: bool) -> dict:
    """Texts and vectors for all sides, and the proof that they compute the same; what was found."""
    tokenizer = Tokenizer.pretrained(zoo.backbone("minilm"))
    turns = list(dict.fromkeys(turn for conversation in conversations() for turn in conversation))
    ids = tokenizer.ids_of(turns)
    tokens = {turn: len(row) for turn, row in zip(turns, ids, strict=True)}
    pool = [turn for turn in turns if 3 <= tokens[turn] <= CANDIDATE][: 2000 if quick else 100_000]
    contexts = ["\n".join(example.context) for split in ("test", "valid") for example in examples(split, 4)]
    contexts = list(dict.fromkeys(contexts))
    sizes = dict(zip(contexts, map(len, tokenizer.ids_of(contexts)), strict=True))
    long = [" ".join(c.split("\n")) for c in contexts if 88 <= sizes[c] <= 108]
    data = {
        "short": [turn for turn in turns if 8 <= tokens[turn] <= 12],
        "long": long,
        "contexts": [c for c in contexts if LONG - 6 <= sizes[c] <= LONG],
        "pairs": pool[:20_000],
    }
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "pool.txt").write_text("\n".join(pool) + "\n")
    with (folder / "train.jsonl").open("w") as file:
        train = examples("train", 4)[:4000]
        for number, example in enumerate(train):
            others = [train[(number + 7 * step) % len(train)].response for step in range(1, NEGATIVES + 1)]
            row = {"context": example.context, "response": example.response, "candidates": [example.response, *others]}
            file.write(json.dumps(row) + "\n")
    model = ours("bi", "auto")
    vectors = mixed(model.encode(pool[:ENCODED]), len(pool)).float()  # [C, D]
    torch.save(vectors, folder / "pool.pt")
    padded = nn.utils.rnn.pad_sequence([torch.tensor([101, *row, 102]) for row in model.candidate_ids(pool)], True)
    for kind, kept in {"bi": vectors, "poly": vectors.unsqueeze(0)}.items():
        torch.save(padded, folder / f"{kind}.pool.vecs")
        torch.save(kept, folder / f"{kind}.pool.encs")
    return {
        "machine": machine(),
        "limit": f"products, {str(model.ranker.context_encoder.dtype).removeprefix('torch.')}",
        "pool": len(pool),
        "differences": differences(Parlai(folder, quick)),
        "flop": {length: flop(tokenizer, data[length][:500]) for length in ("short", "long")},
        "tokens": {name: mean_length(tokenizer, data[name][:500]) for name in ("short", "long", "contexts", "pairs")},
    }


def mean_length(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Tokens of a text, with [CLS] and [SEP]."""
    return sum(len(row) + 2 for row in tokenizer.ids_of(texts)) / len(texts)


def flop(tokenizer: Tokenizer, texts: Sequence[str], layers: int = 6, width: int = 384) -> float:
    """What encoding a text takes, in products alone: 12 D^2 weights a layer and token, and the attention."""
    lengths = [len(row) + 2 for row in tokenizer.ids_of(texts)]
    return sum(layers * (24 * width**2 * n + 4 * width * n**2) for n in lengths) / len(lengths)


@torch.no_grad()
def differences(side: Parlai) -> dict[str, float]:
    """The largest difference between what the sides compute in float32: token states, and scores."""
    tokenizer = Tokenizer.pretrained(zoo.backbone("minilm"))
    rows = tokenizer.ids_of(side.data["contexts"][:4] + side.data["short"][:4])
    ids = nn.utils.rnn.pad_sequence([torch.tensor([101, *row, 102]) for row in rows], True)  # [N, L]
    mask = ids > 0
    states = bert()(input_ids=ids, attention_mask=mask.long()).last_hidden_state  # [N, L, D]
    found = {}
    context, candidates = side.context(0), side.candidates(0)
    for kind in ("bi", "poly", "cross"):
        model = ours(kind, "float32")
        agent = side.agent(kind, "-dt valid -ecands inline --return-cand-scores true", LONG)
        own = model.ranker.tensors()
        if kind == "poly":
            agent.model.codes.copy_(own["codes"])
            there = agent.model.encoder_ctxt(ids)[0]  # [N, L, D]
            found["ParlAI, token states"] = float((there - states)[mask].abs().max())
        if kind == "cross":
            for name in ("weight", "bias"):
                getattr(agent.model.linear_layer, name).copy_(own[f"head.0.{name}"])
        agent.observe({"id": "user", "text": context, "label_candidates": candidates, "episode_done": True})
        reply = agent.act()
        theirs = dict(zip(reply["text_candidates"], reply["sorted_scores"].tolist(), strict=True))
        scores = [(r.score, theirs[r.text]) for r in model.rank(context, candidates)]
        top = max(abs(one) for one, _ in scores)
        found[f"ParlAI, {kind} scores, relative"] = max(abs(one - other) for one, other in scores) / top
    peer = SentenceTransformers(side.folder, side.quick)
    texts = side.data["short"][:8] + side.data["contexts"][:2]
    vectors = normalize(ours("bi", "float32", label=LONG).encode(texts), dim=-1)  # [N, D]
    there = peer.encoder().encode([separated(text) for text in texts], convert_to_tensor=True, show_progress_bar=False)
    found["sentence-transformers, vectors"] = float((there - vectors).abs().max())
    there = peer.cross().model.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    found["sentence-transformers, token states of the cross-encoder"] = float((there - states)[mask].abs().max())
    return found


# --- a process --------------------------------------------------------------------------------------------------------


def start(threads: int | None) -> None:
    plugin.mend()
    logging.disable()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    if threads:
        torch.set_num_threads(threads)


def prepare_in(pipe, folder: Path, quick: bool, threads: int | None) -> None:
    """`prepare` in a process of its own."""
    start(threads)
    pipe.send(prepare(folder, quick))


def serve(pipe, side: str, job: str, argument: str, folder: Path, quick: bool, threads: int | None) -> None:
    """Make ready, do a piece of the job for every turn asked for, and in the end tell the peak of memory."""
    start(threads)
    run = getattr(SIDES[side](folder, quick), job)(argument)
    pipe.send("ready")
    with suppress(EOFError):  # whoever asked was stopped
        while (turn := pipe.recv()) is not None:
            begun = time.perf_counter()
            units = run(turn)
            pipe.send(units / (time.perf_counter() - begun))
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
