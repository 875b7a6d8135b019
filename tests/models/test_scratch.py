"""The tokenizer and the configuration of a backbone from scratch."""

import pytest

pytest.importorskip("torch")

from humanpref.config.neural import EncoderOptions
from humanpref.models.scratch import scratch_config, train_tokenizer

TEXTS = ["alpha beta gamma", "the theta of the thesis", "the themes"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 275)


def test_special_tokens_come_first_and_stand_around_texts(tokenizer):
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3]
    own = tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.unk_token
    assert list(own) == names
    pair = tokenizer("the", "the", return_token_type_ids=True)
    (the,) = tokenizer("the", add_special_tokens=False).input_ids
    assert tokenizer("the").input_ids == [1, the, 2]
    assert pair.input_ids == [1, the, 2, the, 2]
    assert pair.token_type_ids == [0, 0, 0, 1, 1]


def test_the_vocabulary_has_all_bytes_and_keeps_its_size(tokenizer):
    assert len(tokenizer) == 275
    text = "你好 🙂 \u200b é"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).strip() == text


def test_repeated_texts_count_once(tokenizer):
    again = train_tokenizer([TEXTS[0]] * 50 + TEXTS, 275)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_composed_and_decomposed_letters_are_the_same(tokenizer):
    assert tokenizer("é").input_ids == tokenizer("e\u0301").input_ids


@pytest.mark.parametrize(("width", "heads"), [(16, 1), (48, 1), (248, 7)])
def test_the_configuration_takes_its_sizes_from_the_options(tokenizer, width, heads):
    options = EncoderOptions(
        scratch_hidden_size=width, scratch_layers=2, scratch_dropout=0.25, max_length=77
    )
    config = scratch_config(options, tokenizer)
    assert config.vocab_size == 275
    assert config.hidden_size == width
    assert config.intermediate_size == 4 * width
    assert config.num_hidden_layers == 2
    assert config.num_attention_heads == heads
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.25
    assert config.max_position_embeddings == 77
    assert config.type_vocab_size == 2
    assert config.pad_token_id == 0
    assert config.position_buckets == 32
    assert config.relative_attention
    assert config.share_att_key
    assert not config.position_biased_input
