from humanpref.config import FAMILIES, load_config
from humanpref.config.bounds import hints_of
from humanpref.config.describe import documentation, options_of
from humanpref.config.neural import DpoOptions


def test_every_option_is_documented_where_it_is_defined():
    for family, sections in FAMILIES.items():
        for kind in sections:
            assert set(hints_of(kind)) <= set(documentation(kind)), (family, kind)


def test_a_subclass_redefines_the_text():
    assert "both responses continue" in documentation(DpoOptions)["system_prompt"]
    assert documentation(DpoOptions)["lora_r"].startswith("Rank of")


def test_an_option_has_key_value_type_and_text():
    options = {
        option.key: option
        for option in options_of(load_config("tiny", overrides=["training.epochs=7"]))
    }
    epochs = options["training.epochs"]
    assert (epochs.value, epochs.kind, epochs.text) == (
        7,
        "int, at least 1",
        "Passes over the training rows.",
    )
    assert options["training.max_grad_norm"].kind == "float, above 0, or none"
    assert options["model.inputs"].kind == "one of dual, joint"
    assert options["training.seeds"].kind == "int, at least 1"
