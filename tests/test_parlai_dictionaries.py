"""Dictionaries of ParlAI's own tokenizers give the ids that they give in ParlAI."""

import json
import os
import random
import shutil
from itertools import islice
from pathlib import Path

import pytest
from parlai.core.agents import create_agent_from_model_file
from parlai.core.dict import DictionaryAgent
from parlai.core.message import Message
from parlai.core.opt import Opt
from tokenizers import ByteLevelBPETokenizer

from poly_agents.models import opening
from tests.parlai_made import TINY

ODD = [
    *("", " ", "   ", "\n", "\n\n", " \n \n", "a\nb", "a \n\n b\n", "ab  cd   ef", "\r\n x\r y", "x" * 500),
    *("ΑΣ ΟΔΟΣ İstanbul STRASSE ẞ ﬁ", "漢字かな交じり文。日本語", "😀😀 👩‍👩‍👧 🇩🇪", "１２３ ½ ² Ⅷ ١٢٣", "ab" * 20),
    *(
        "x̂ é \u200b\u200d \xa0\u2028\u2029 \x1c\x1d\x85 \t tab",
        "ก็ ไทย नमस्ते עִבְרִית العَرَبِيَّة",
        "foo_bar-baz don't I'LL we've",
    ),
    "3.14,5;6:7!8? @@ @@@ </w> lo</w> __newln__",
]
DICTIONARIES = [
    ("re", {}),
    ("re", {"dict_lower": True, "dict_maxtokens": 500}),
    ("split", {"dict_lower": True}),
    ("space", {}),
    ("bpe", {"dict_lower": True, "dict_maxtokens": 800, "dict_endtoken": "__start__"}),
    ("bpe", {"dict_maxtokens": 300}),
    ("bytelevelbpe", {}),
    ("bytelevelbpe", {"bpe_add_prefix_space": False}),
    ("slow_bytelevel_bpe", {}),
    ("gpt2", {"bpe_add_prefix_space": True}),
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Real messages, odd texts, and random characters."""
    from chitchat_dataset import MessageDataset

    draw, planes = random.Random(1), [(32, 127), (128, 8192), (0x3000, 0xD000), (0x1F300, 0x1FA00), (10, 11), (32, 33)]
    noise = (
        "".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.randrange(1, 60))) for _ in range(300)
    )
    return [*map(str, islice(MessageDataset(), 3000)), *ODD, *noise]


@pytest.fixture(scope="module")
def merges(lines, tmp_path_factory) -> Path:
    """GPT-2's two files in small, where ParlAI looks for them."""
    folder = tmp_path_factory.mktemp("data") / "gpt2"
    folder.mkdir()
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(lines[:1000], vocab_size=900, show_progress=False)
    vocabulary, merges = trained.save_model(str(folder))
    os.rename(vocabulary, folder / "encoder.json")
    os.rename(merges, folder / "vocab.bpe")
    return folder


@pytest.mark.parametrize(("kind", "options"), DICTIONARIES)
def test_ids_are_those_of_parlai(lines, merges, tmp_path, kind, options):
    path = str(tmp_path / "model.dict")
    opt = {"model": "transformer/biencoder", "dict_file": path, "dict_tokenizer": kind} | options
    files = {"bpe_vocab": str(merges / "encoder.json"), "bpe_merge": str(merges / "vocab.bpe")}
    given = opt | {"datapath": str(merges.parent)} | files
    first = DictionaryAgent(Opt(given))
    if kind in ("re", "split", "space", "bpe"):
        for line in lines[:1000]:
            first.add_to_dict(first.tokenize(line))
    first.save(path, sort=kind in ("re", "split", "space", "bpe"))
    Path(f"{path.removesuffix('.dict')}.opt").write_text(json.dumps(opt))
    if kind in ("gpt2", "slow_bytelevel_bpe"):
        shutil.copy(merges / "encoder.json", f"{path}-vocab.json")
        shutil.copy(merges / "vocab.bpe", f"{path}-merges.txt")
    theirs, ours = DictionaryAgent(Opt(given)), opening.read_tokenizer(path)
    expected = [theirs.txt2vec(line) for line in lines]
    assert ours.ids_of(lines) == expected
    assert ours.ids("\n") == list(ours.steps.turn_ids) == theirs.txt2vec("\n")
    ours.save(str(tmp_path / "ours.dict"))
    again = opening.read_tokenizer(str(tmp_path / "ours.dict"))
    assert (again.ids_of(lines), again.frame, again.identity) == (expected, ours.frame, ours.identity)


def test_the_turns_of_a_context_are_separated_as_in_parlai(made_by_parlai):
    path = made_by_parlai("bi", {"dict_tokenizer": "space"} | TINY)
    agent = create_agent_from_model_file(path, {"datatype": "valid"})
    for turn in ("hello hi", "how are you", "fine"):
        agent.history.update_history(Message(text=turn))
    assert opening.read_tokenizer(f"{path}.dict").context_ids_of(["hello hi\nhow are you\nfine"]) == [
        agent.history.get_history_vec()
    ]
