"""The presets on small random backbones of their own kinds."""

import json
import tomllib
from importlib import resources
from pathlib import Path

from humanpref.models.scratch import train_tokenizer

SHAPES = resources.files("humanpref.training").joinpath("shapes.toml")
PUBLISHED = tomllib.loads(SHAPES.read_text("utf-8"))
DEBERTA_V3 = {
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
"""What shapes.toml leaves out, since it has no weights."""


def shrunken(backbone: str) -> dict:
    """The published configuration of a backbone, with two narrow layers."""
    last = backbone.rpartition("/")[2].lower()
    published = PUBLISHED[last.removesuffix("-it").removesuffix("-instruct")]
    sizes = {
        **published,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if "num_key_value_heads" in sizes:
        ratio = published["num_attention_heads"] // published["num_key_value_heads"]
        sizes |= {"num_key_value_heads": max(1, 4 // ratio), "head_dim": 16}
        sizes["max_position_embeddings"] = 2_048
    if "embedding_size" in sizes:
        sizes["embedding_size"] = 32
    return sizes | (DEBERTA_V3 if sizes["model_type"] == "deberta-v2" else {})


def save_encoder(backbone: str, texts: list[str], folder: Path) -> Path:
    """Save a shrunken random encoder and its tokenizer as a publisher would."""
    import torch
    from transformers import AutoConfig, AutoModel

    sizes, tokenizer = shrunken(backbone), train_tokenizer(texts, 400)
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


QWEN_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
"""A word takes the character before it along: of "Query:" and "What", ":What" is one word."""
QWEN_PROMPTS = {
    "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query"
    "\nQuery:",
    "document": "",
}


def qwen_tokenizer(texts: list[str]):
    """A byte-level tokenizer as Qwen3-Embedding's: pads on the left, puts its padding token behind
    every text, and has another token for the end of a turn."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *[":What" for _ in range(99)]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
    )


def save_sentence_folder(backbone: str, texts: list[str], folder: Path) -> Path:
    """Save a shrunken random encoder with the files of Qwen3-Embedding or of bge-base."""
    import torch
    from transformers import AutoConfig, AutoModel

    sizes, qwen = shrunken(backbone), "qwen" in backbone.lower()
    tokenizer = qwen_tokenizer(texts) if qwen else train_tokenizer(texts, 400)
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = AutoConfig.for_model(sizes.pop("model_type"), initializer_range=0.2, **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    pooling = {
        "word_embedding_dimension": sizes["hidden_size"],
        "pooling_mode_cls_token": not qwen,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    files = {"modules.json": modules, "1_Pooling/config.json": pooling}
    if qwen:
        pooling |= {
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        }
        files["config_sentence_transformers.json"] = {
            "prompts": QWEN_PROMPTS,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        }
    else:
        lengths = {"max_seq_length": 512, "do_lower_case": True}
        files |= {"sentence_bert_config.json": lengths, "config_sentence_transformers.json": {}}
    for name, values in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    return folder
