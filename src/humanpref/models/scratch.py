"""A small DeBERTa-v2 trained from scratch: its configuration, and a tokenizer trained on the
training rows."""

from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from humanpref.config.neural import EncoderOptions

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer, which can encode any text in any script.

    Parameters
    ----------
    texts : list of str
        Texts of the training rows; repeated texts count once.
    vocabulary : int
        Maximum number of tokens, including the 256 bytes and the special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(dict.fromkeys(texts), trainer)
    pad, cls, sep, unk = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, number) for number, token in enumerate(SPECIAL_TOKENS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, cls_token=cls, sep_token=sep, unk_token=unk
    )


def scratch_config(options: EncoderOptions, tokenizer: Any) -> DebertaV2Config:
    """Return the configuration of a small model with DeBERTa-v3's design: relative positions in
    buckets, shared keys, and no absolute positions."""
    width = options.scratch_hidden_size
    return DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=options.scratch_layers,
        num_attention_heads=max(1, width // 32),
        intermediate_size=4 * width,
        hidden_dropout_prob=options.scratch_dropout,
        attention_probs_dropout_prob=options.scratch_dropout,
        max_position_embeddings=options.max_length,
        type_vocab_size=2,
        relative_attention=True,
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        pad_token_id=tokenizer.pad_token_id,
    )
