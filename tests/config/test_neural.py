import pytest

from humanpref.config.neural import (
    AdaptedOptions,
    DecoderOptions,
    DpoOptions,
    DpoTraining,
    EncoderInference,
    EncoderOptions,
    GradientTraining,
)
from humanpref.schema import InputError


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            EncoderOptions,
            {"scratch_hidden_size": 12},
            "model.scratch_hidden_size: expected a multiple of 8, got 12",
        ),
        (
            EncoderOptions,
            {"scratch_hidden_size": 0},
            "model.scratch_hidden_size: expected a multiple of 8",
        ),
        (
            EncoderOptions,
            {"prompt_share": 1.0},
            "model.prompt_share: expected a number between 0 and 1",
        ),
        (EncoderOptions, {"dropout": 1.0}, r"model.dropout: expected a number in \[0, 1\)"),
        (EncoderOptions, {"head": "mlp"}, "model.head: expected one of linear, interaction"),
        (AdaptedOptions, {"max_length": 15}, "model.max_length: expected 16 to 131072 tokens"),
        (AdaptedOptions, {"target_modules": " ,"}, "model.target_modules: expected names"),
        (AdaptedOptions, {"lora_alpha": 0}, "model.lora_alpha: expected above 0, got 0.0"),
        (
            AdaptedOptions,
            {"peft": "none", "quantisation": "4bit"},
            "model.quantisation: expected none with peft=none",
        ),
        (
            AdaptedOptions,
            {"peft": "bias", "quantisation": "8bit"},
            "model.quantisation: expected none with peft=bias",
        ),
        (
            AdaptedOptions,
            {"peft": "none", "base_dtype": "float16"},
            "model.base_dtype: expected float32 with peft=none",
        ),
        (DecoderOptions, {"head": "davidson"}, "model.head: expected one of linear, mlp, tokens"),
        (DecoderOptions, {"answers": "A,B"}, "model.answers: expected three different words"),
        (DecoderOptions, {"answers": "A, B,A"}, "model.answers: expected three different words"),
        (DecoderOptions, {"answers": "A,B,"}, "model.answers: expected three different words"),
        (
            DecoderOptions,
            {"head": "tokens", "dropout": 0.1},
            "model.dropout: expected 0 with head=tokens, got 0.1",
        ),
        (
            DecoderOptions,
            {"head": "tokens", "head_bias": True},
            "model.head_bias: expected false with head=tokens",
        ),
        (
            DpoOptions,
            {"peft": "bias"},
            "model.peft: expected one of lora, rslora, dora, ia3, layernorm",
        ),
        (
            DpoTraining,
            {"head_learning_rate": 1e-3},
            "training.head_learning_rate: expected none: dpo has no head",
        ),
        (
            DpoTraining,
            {"label_smoothing": 0.5},
            r"training.label_smoothing: expected a number in \[0, 0.5\)",
        ),
        (
            DpoTraining,
            {"label_smoothing": 0.1, "ties": "davidson"},
            "expected 0 with ties=davidson, got 0.1",
        ),
        (
            DpoTraining,
            {"link_fraction": 1e-310},
            "training.link_fraction: expected 0, or 1/k .*got 1e-310",
        ),
        (
            GradientTraining,
            {"layer_decay": 0.0},
            r"training.layer_decay: expected a number in \(0, 1\]",
        ),
        (
            GradientTraining,
            {"learning_rate": 1.0},
            "training.learning_rate: expected a number between 0 and 1",
        ),
        (
            GradientTraining,
            {"precision": "fp8"},
            "training.precision: expected one of auto, bf16, fp16, no",
        ),
        (EncoderInference, {"seconds": 0}, "inference.seconds: expected above 0"),
    ],
)
def test_values_that_do_not_fit(kind, options, message):
    with pytest.raises(InputError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("peft", "idle"),
    [
        ("dora", ()),
        ("ia3", ("lora_r", "lora_alpha", "lora_dropout")),
        ("bias", ("lora_r", "lora_alpha", "lora_dropout", "target_modules")),
    ],
)
def test_the_options_that_a_peft_method_has_no_use_for(peft, idle):
    assert AdaptedOptions(peft=peft).idle() == dict.fromkeys(idle, "peft")
