"""Write tiny encoders with random weights, shaped as DeBERTa, ALBERT and BERT, with tokenizers:
something to try commands with.

    python benchmarks/tiny_backbones.py --train CSV --out FOLDER

The tokenizer is trained on the CSV's texts. The folders `deberta`, `albert` and `bert` are what
`model.backbone` and `humanpref compare --backbone PRESET=FOLDER` take. Nothing good is to be
expected of their figures.
"""

import argparse
from pathlib import Path

import torch
from transformers import AlbertConfig, AutoModel, BertConfig, DebertaV2Config

from humanpref.data import read_pairs
from humanpref.models.scratch import train_tokenizer
from humanpref.schema import TEXT_COLUMNS

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
CONFIGS = {
    "deberta": DebertaV2Config(
        **SIZES,
        relative_attention=True,
        position_buckets=64,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    ),
    "albert": AlbertConfig(**SIZES, embedding_size=32),
    "bert": BertConfig(**SIZES),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=1_500)
    options = parser.parse_args()

    pairs = read_pairs(options.train)
    texts = [text for column in TEXT_COLUMNS for turns in pairs[column] for text in turns]
    tokenizer = train_tokenizer(texts, options.vocabulary)
    for name, config in CONFIGS.items():
        config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(options.out / name)
        tokenizer.save_pretrained(options.out / name)
        print(options.out / name)


if __name__ == "__main__":
    main()
