"""The sizes of a backbone, from its configuration and as published."""

import pytest

pytest.importorskip("torch")

from transformers import AlbertConfig, AutoConfig, AutoModel, BertConfig, LlamaConfig

from humanpref.config import load_config, preset_names
from humanpref.config.gpu import needs_gpu
from humanpref.training.shapes import Shape


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        (BertConfig(num_hidden_layers=2, hidden_size=48, num_attention_heads=4), 1),
        (AlbertConfig(num_hidden_layers=3, hidden_size=48, num_attention_heads=4), 3),
        (
            LlamaConfig(
                num_hidden_layers=2,
                hidden_size=48,
                intermediate_size=96,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=100,
            ),
            1,
        ),
    ],
    ids=["bert", "albert", "llama"],
)
def test_the_weights_are_those_of_the_matrices(config, shared):
    shape = Shape.of(config)
    assert shape.shared == (shared > 1)
    module = AutoModel.from_config(config)
    matrices = [(name, p.numel()) for name, p in module.named_parameters() if p.dim() == 2]
    left_out = ("position", "token_type", "pooler", "embedding_hidden_mapping")
    counted = sum(size for name, size in matrices if not any(word in name for word in left_out))
    assert shape.weights == counted


def test_every_preset_that_needs_a_gpu_has_its_shape():
    for name in preset_names():
        config = load_config(name)
        if needs_gpu(config):
            assert Shape.published(config.model.backbone) is not None, name


def test_a_shape_is_found_by_the_last_part_of_a_name():
    known = Shape.published("Qwen/Qwen2.5-7B-Instruct")
    assert (known.keys, known.attention, known.gated) == (512, 3_584, True)
    assert Shape.published("folder/qwen2.5-7b-instruct/") == known
    assert Shape.published("unknown") is None


def test_gemma_2_keeps_its_scores_and_has_four_norms():
    known = Shape.published("google/gemma-2-9b-it")
    assert known == Shape.of(AutoConfig.for_model("gemma2", **GEMMA))
    assert (known.scores, known.norms, known.positions) == (True, 4, 0)


GEMMA = {
    "hidden_size": 3_584,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "intermediate_size": 14_336,
    "vocab_size": 256_000,
}
