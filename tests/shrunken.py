"""The presets on small random backbones of their own kinds."""

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
