"""Write tiny random encoders of every family, as HuggingFace folders."""

from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

WORDS = "hello hi how are you fine thanks what is your name my cat dog blue red one two three four five six".split()
SMALL = {"vocab_size": 41, "hidden_size": 26, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
FAMILIES = {  # family -> (start, separator, tokens between two texts, segment of the second text, configuration)
    "bert": ("[CLS]", "[SEP]", "[SEP]", 1, SMALL | {"max_position_embeddings": 97}),
    "electra": ("[CLS]", "[SEP]", "[SEP]", 1, SMALL | {"embedding_size": 19, "max_position_embeddings": 97}),
    "roberta": ("<s>", "</s>", "</s> </s>", 0, SMALL | {"type_vocab_size": 1, "max_position_embeddings": 99}),
    "mpnet": ("<s>", "</s>", "</s> </s>", 0, SMALL | {"max_position_embeddings": 99}),
    "distilbert": (
        "[CLS]",
        "[SEP]",
        "[SEP]",
        1,
        {"vocab_size": 41, "dim": 26, "n_layers": 2, "n_heads": 2, "hidden_dim": 37, "max_position_embeddings": 97},
    ),
    "modernbert": (
        "[CLS]",
        "[SEP]",
        "[SEP]",
        0,
        SMALL | {"hidden_size": 28, "max_position_embeddings": 97, "global_attn_every_n_layers": 2},
    ),
}


def make_encoder(folder: Path, family: str, **changes) -> str:
    """Write a tiny random encoder with its tokenizer as a HuggingFace folder."""
    start, separator, between, segment, config = FAMILIES[family]
    pad = "[PAD]" if start == "[CLS]" else "<pad>"
    special = [start, pad, separator, "[UNK]"] if start == "<s>" else [pad, "[UNK]", start, separator]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    backend = Backend(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    ids = [(token, vocabulary[token]) for token in (start, separator)]
    middle = " ".join(f"{token}:0" for token in between.split())
    backend.post_processor = TemplateProcessing(
        single=f"{start}:0 $A:0 {separator}:0",
        pair=f"{start}:0 $A:0 {middle} $B:{segment} {separator}:{segment}",
        special_tokens=ids,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token=pad,
        cls_token=start,
        sep_token=separator,
        model_input_names=["input_ids", *["token_type_ids"] * (family in ("bert", "electra")), "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, **config | {"pad_token_id": vocabulary[pad]} | changes)
    model = AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        if "orm" not in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


SMALL_T5 = {"vocab_size": 41, "d_model": 26, "d_kv": 7, "num_heads": 3, "d_ff": 37, "num_layers": 2}


def make_encoder_decoder(folder: Path, family: str = "t5", tied: bool = True, **changes) -> str:
    """Write a tiny random encoder-decoder with its tokenizer as a HuggingFace folder."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "true", *WORDS, "false"])}
    backend = Backend(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="$A:0 </s>:0", pair="$A:0 </s>:0 $B:0 </s>:0", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = {"feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0, "tie_word_embeddings": tied}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **SMALL_T5 | config | changes))
    if not tied:  # transformers 5 ties them whatever the config says
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    for name, parameter in model.named_parameters():
        if "orm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)


SMALL_DECODER = {"hidden_size": 28, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 97}
DECODERS = {  # family -> (does its tokenizer put a start token before each text, configuration)
    "gpt2": (False, {"n_embd": 28, "n_layer": 2, "n_head": 2, "n_positions": 97}),
    "llama": (True, SMALL_DECODER | {"intermediate_size": 37, "num_key_value_heads": 1}),
    "qwen3": (False, SMALL_DECODER | {"intermediate_size": 37, "num_key_value_heads": 1, "head_dim": 10}),
}


def make_decoder(folder: Path, family: str, auto: type = AutoModel, **changes) -> str:
    """Write a tiny random decoder with its tokenizer, which has no padding, as a HuggingFace folder."""
    starts, config = DECODERS[family]
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    backend = Backend(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    if starts:
        backend.post_processor = TemplateProcessing(
            single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **changes.pop("tokens", {})
    ).save_pretrained(folder)
    torch.manual_seed(3)
    special = {"vocab_size": 41, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    model = auto.from_config(AutoConfig.for_model(family, **config | special | changes))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return str(folder)
