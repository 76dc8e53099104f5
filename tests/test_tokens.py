"""Special tokens, segments and positions, against each family's own tokenizer and model."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer

from poly_agents import zoo
from poly_agents.encoders import states
from poly_agents.encoders.backbone import Backbone
from poly_agents.encoders.states import by_length
from poly_agents.models import opening
from poly_agents.text.tokenizer import Tokenizer
from poly_agents.text.tokens import pad
from tests.encoders import FAMILIES

ONE, TWO = "hello how are you fine", "my cat"


@pytest.fixture(params=FAMILIES)
def folder(request, encoders):
    return encoders[request.param]


def test_a_wrapped_text_is_what_the_family_s_tokenizer_makes(folder):
    ours = Tokenizer.pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    framed = ours.frame.wrap(pad(ours.ids_of([ONE, TWO])))
    expected = theirs([ONE, TWO], padding=True, return_tensors="pt")
    assert framed.ids.tolist() == expected["input_ids"].tolist()
    assert framed.mask.tolist() == expected["attention_mask"].bool().tolist()


def test_a_joined_pair_is_what_the_family_s_tokenizer_makes(folder):
    ours = Tokenizer.pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    framed = ours.frame.join(pad(ours.ids_of([ONE, TWO])), pad(ours.ids_of([TWO, TWO])))
    expected = theirs([ONE, TWO], [TWO, TWO], padding=True, return_tensors="pt", return_token_type_ids=True)
    assert framed.ids.tolist() == expected["input_ids"].tolist()
    assert framed.mask.tolist() == expected["attention_mask"].bool().tolist()
    assert framed.segments.tolist() == expected["token_type_ids"].tolist()


@torch.no_grad()
def test_states_are_those_of_the_plain_model_with_its_own_inputs(folder):
    ours, theirs = Tokenizer.pretrained(folder), AutoTokenizer.from_pretrained(folder)
    backbone = Backbone.downloaded(folder, torch.float32).eval()
    plain = AutoModel.from_pretrained(folder).eval()
    framed = ours.frame.join(pad(ours.ids_of([ONE, TWO])), pad(ours.ids_of([TWO, TWO])))
    inputs = theirs([ONE, TWO], [TWO, TWO], padding=True, return_tensors="pt")
    expected = plain(**inputs).last_hidden_state
    mask = framed.mask
    assert_close(backbone(framed)[mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_the_longest_text_that_fits_runs_and_the_room_is_known(folder):
    ours = Tokenizer.pretrained(folder)
    backbone = Backbone.downloaded(folder, torch.float32)
    assert backbone.positions == 97
    length = backbone.positions - ours.frame.single_length
    framed = ours.frame.wrap(pad([[7] * length, [7]]))
    assert backbone(framed).shape[:2] == (2, 97)


def test_a_backbone_is_rebuilt_from_its_configuration(folder):
    backbone = Backbone.downloaded(folder, torch.float32).eval()
    blank = Backbone.blank(json.loads(json.dumps(backbone.config)), torch.float32).eval()
    blank.load_state_dict(backbone.state_dict())
    framed = Tokenizer.pretrained(folder).frame.wrap(pad([[7, 8, 9]]))
    with torch.no_grad():
        assert_close(blank(framed), backbone(framed), atol=0, rtol=0)


def test_the_separator_is_between_turns(tokenizer):
    assert tokenizer.ids("hello\nmy cat") == [*tokenizer.ids("hello"), tokenizer.turn_id, *tokenizer.ids("my cat")]
    assert tokenizer.ids("") == []


def test_a_special_token_spelt_out_in_a_text_stays_text(tokenizer):
    assert tokenizer.turn_id not in tokenizer.ids("hello [SEP] my cat")


def test_a_tokenizer_is_saved_whole(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "model.dict"))
    loaded = opening.read_tokenizer(str(tmp_path / "model.dict"))
    assert loaded.frame == tokenizer.frame
    assert loaded.ids("hello\nmy unknown cat") == tokenizer.ids("hello\nmy unknown cat")


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "model.dict").write_text('{"pad_id": 0')
    with pytest.raises(ValueError, match=r"model\.dict, the tokenizer, is not JSON"):
        opening.read_tokenizer(str(tmp_path / "model.dict"))


def test_emoji_unknown_scripts_and_long_turns_have_ids():
    real = Tokenizer.pretrained(zoo.backbone("minilm"))
    for text in ("🙂🙃", "ᚠᚢᚦ ⵣⴰ", "\u200b", "a" * 10_000, "word " * 2_000, "\t \r"):
        assert all(isinstance(number, int) for number in real.ids(text))


def test_rows_are_put_back_in_order_and_no_run_is_over_budget(texts, monkeypatch):
    tokens = pad(texts(3, 17, 1, 9, 9, 2, 13))
    monkeypatch.setitem(states.TOKEN_BUDGET, "cpu", 20)
    runs = []

    def run(part):
        runs.append(part.ids.numel())
        return part.ids.masked_fill(~part.mask, 0).sum(-1)

    assert by_length(run, tokens).tolist() == tokens.ids.masked_fill(~tokens.mask, 0).sum(-1).tolist()
    assert max(runs) <= 20 and len(runs) > 1


def test_a_checkpoint_without_all_its_weights_is_refused(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    removed = next(name for name in weights if "layer.1.output.dense.weight" in name)
    save_file({n: t for n, t in weights.items() if n != removed}, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights"):
        Backbone.downloaded(str(tmp_path / "broken"), torch.float32)
