"""ParlAI's dictionary over a tokenizer: what `agent.dict` and the `.dict` file are."""

from functools import lru_cache
from pathlib import Path

from parlai.core.dict import DictionaryAgent

from poly_agents import zoo
from poly_agents.errors import InputError
from poly_agents.models import opening
from poly_agents.pretrained.parlai_tokenizer import ParlaiTokenizer

CACHED_TEXTS = 2**16  # turns and candidates come back in many examples


class TokenizerDictionary(DictionaryAgent):
    """A dictionary that is complete from the start, so ParlAI never walks through the data to build one.

    Attributes:
        words: the tokenizer.
        ids: returns the bare ids of a text; the last ones are cached.
    """

    def __init__(self, opt, shared=None):
        path = opt.get("dict_file")
        if shared:
            self.words, self.ids = shared["words"], shared["ids"]
        elif path and Path(path).exists():
            self.words = opening.read_tokenizer(path)
        else:
            source = zoo.backbone(opt.get("tokenizer_source") or opt["backbone"])
            self.words = opening.pretrained_tokenizer(source)
        self.opt = opt
        if not shared:
            self.ids = lru_cache(CACHED_TEXTS)(self.words.ids)
        self.tok2ind = self.words.backend.get_vocab()
        self.ind2tok = {number: token for token, number in self.tok2ind.items()}
        self.null_token = self.ind2tok[self.words.pad_id]
        self.start_token = self.end_token = self.unk_token = self.ind2tok[self.words.turn_id]
        self._unk_token_idx = self.words.turn_id
        self.freq = dict.fromkeys(self.tok2ind, 1)

    def share(self):
        return {"class": type(self), "opt": self.opt, "words": self.words, "ids": self.ids}

    def is_prebuilt(self):
        return True

    def __setitem__(self, key, value):
        if isinstance(self.words, ParlaiTokenizer):
            return  # what ParlAI adds by its options was in the dictionary when it was saved
        flag = "--person-tokens: " if key in ("__p1__", "__p2__") else ""
        raise InputError(f"{flag}the dictionary of a pretrained encoder is fixed: {key!r} cannot be added to it")

    def add_additional_special_tokens(self, tokens):
        raise InputError("--special-tok-lst: the dictionary of a pretrained encoder is fixed")

    def txt2vec(self, text, vec_type=list):
        return vec_type(self.ids(text))

    def vec2txt(self, vector, **kwargs):
        return self.words.text(vector)

    def save(self, filename=None, append=False, sort=True):
        self.words.save(filename)

    def act(self):
        return {}
