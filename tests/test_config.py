import dataclasses

import pytest

from humanpref.config import FAMILIES, from_dict, load_config, preset_names, valid_keys
from humanpref.schema import InputError


def test_every_preset_resolves_and_survives_its_own_json():
    expected = {"prior", "sparse", "embedding", "tiny", "deberta-v3-small", "deberta-v3-base", "albert-base-v2"}
    assert expected <= set(preset_names())
    for name in preset_names():
        config = load_config(name)
        assert config.preset == name
        assert from_dict(config.to_dict(), "test") == config


def test_the_reports_settings():
    config = load_config("deberta-v3-small")
    assert config.model.backbone == "microsoft/deberta-v3-small"
    assert (config.model.max_length, config.training.batch_size, config.training.learning_rate) == (512, 16, 2e-5)
    assert (config.training.epochs, config.seed, config.training.accumulation) == (1, 42, 1)


def test_precedence_preset_then_file_then_override(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "tiny"\nseed = 7\n[training]\nepochs = 9\nbatch_size = 3\n')
    config = load_config(file=file, overrides=["training.epochs=2", "model.backbone=/some/where"])
    assert (config.preset, config.seed, config.training.epochs, config.training.batch_size) == ("tiny", 7, 2, 3)
    assert config.model.backbone == "/some/where"
    assert config.training.learning_rate == load_config("tiny").training.learning_rate
    assert load_config("sparse", overrides=["seed=3"]).seed == 3


def test_a_file_without_a_preset_names_a_family(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('family = "sparse"\n[model]\nterm_penalties = 5\n')
    assert load_config(file=file).model.term_penalties == (5.0,)
    file.write_text("seed = 1\n")
    with pytest.raises(InputError, match="name a preset"):
        load_config(file=file)
    file.write_text('family = "sparse"\n')
    with pytest.raises(InputError, match="does not fit preset tiny"):
        load_config("tiny", file)


@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        ("tiny", "training.epocs=3", r"unknown option 'training.epocs'.*did you mean 'training.epochs'"),
        ("tiny", "model.epochs=3", "did you mean 'training.epochs'"),
        ("tiny", "epochs=3", "did you mean 'training.epochs'"),
        ("sparse", "training.epochs=3", "unknown option 'training.epochs' for family sparse"),
        ("tiny", "training.epochs", "expected section.key=value"),
        ("tiny", "training.epochs=2.5", "training.epochs: expected int, got 2.5"),
        ("tiny", "training.epochs=many", "training.epochs: expected int, got 'many'"),
        ("tiny", "training.epochs=0", "training.epochs: expected at least 1, got 0"),
        ("tiny", "training.learning_rate=nan", "training.learning_rate"),
        ("tiny", "training.learning_rate=true", "training.learning_rate: expected float, got True"),
        ("tiny", "training.precision=fp8", "training.precision: expected one of auto, bf16, fp16, no"),
        ("tiny", "training.validation_fraction=0.9", "training.validation_fraction"),
        ("tiny", "preset=sparse", "unknown option 'preset'"),
        ("llama-3.2-1b-dpo", "training.head_learning_rate=1e-3", "training.head_learning_rate: .*dpo has no head"),
        ("sparse", "model.term_penalties=[]", "model.term_penalties"),
        ("sparse", 'model.term_penalties=["a"]', "model.term_penalties: expected a list of numbers"),
        (
            "boosted",
            "model.leaves=99999999999",
            "model.leaves: expected a whole number from 2 to 1000000, got 99999999999",
        ),
        ("boosted", "model.l2=1e300", r"model.l2: expected 0, or a number in \[1e-9, 1e9\], got 1e\+300"),
        ("boosted", "model.min_child_weight=1e300", "model.min_child_weight: .*got 1e\\+300"),
        ("boosted", "model.min_child_weight=1e-300", "model.min_child_weight: .*got 1e-300"),
        ("boosted", "model.learning_rate=1e-300", r"model.learning_rate: expected a number in \[1e-6, 1\], got 1e-300"),
        ("boosted", "model.row_share=1e-300", "model.row_share: .*got 1e-300"),
        ("boosted", "model.column_share=1e-300", "model.column_share: .*got 1e-300"),
        (
            "prior",
            "training.validation_fraction=1e-310",
            "training.validation_fraction: expected 0, or 1/k .*got 1e-310",
        ),
        (
            "llama-3.2-1b-dpo",
            "training.link_fraction=1e-310",
            "training.link_fraction: expected 0, or 1/k .*got 1e-310",
        ),
        ("prior", "model.nonsense=1", "unknown option 'model.nonsense' for family prior$"),
        ("tiny", "model.nonsense=1", "unknown option 'model.nonsense' for family encoder$"),
        ("tini", "seed=1", r"unknown preset 'tini' \(did you mean 'tiny'\?\)"),
    ],
)
def test_what_does_not_fit_is_named(preset, override, message):
    with pytest.raises(InputError, match=message):
        load_config(preset, overrides=[override])


@pytest.mark.parametrize(
    ("preset", "overrides", "uses", "needs"),
    [
        ("prior", [], False, False),
        ("sparse", [], False, False),
        ("boosted", [], False, False),
        ("embedding", [], True, False),  # frozen: a CPU does it
        ("cpu-best", [], True, False),
        ("tiny", [], True, False),
        ("tiny", ["model.backbone=microsoft/deberta-v3-small"], True, True),
        ("deberta-v3-base", [], True, True),
        ("deberta-v3-base", ["model.backbone=scratch"], True, False),
        ("llama-3.2-1b-dpo", [], True, True),
        ("gemma-2-9b-qlora", [], True, True),
        ("cpu-best", ['model.members=["sparse", "boosted"]'], False, False),
        ("cpu-best", ['model.members=["sparse", "deberta-best seed=3"]'], True, True),
        ("cpu-best", ['model.members=["sparse", "deberta-best model.backbone=scratch"]'], True, False),
    ],
)
def test_what_needs_a_gpu_follows_from_the_options(preset, overrides, uses, needs):
    config = load_config(preset, overrides=overrides)
    assert (config.uses_gpu, config.needs_gpu) == (uses, needs)
    again = from_dict(config.to_dict(), "an artifact's")
    assert (again.uses_gpu, again.needs_gpu) == (uses, needs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "tiny"\n[training]\nepocs = 1\n', "run.toml: unknown option 'training.epocs'.*training.epochs"),
        ('preset = "tiny"\ntraining = 3\n', r"\[training\] is a section"),
        ('preset = "tiny"\n[trainin]\nepochs = 1\n', "unknown option 'trainin'"),
        ("preset = \n", "not valid TOML"),
        ('family = "forest"\n', "expected one of prior, .*, got 'forest'"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(file=file)
    with pytest.raises(InputError, match="cannot be read"):
        load_config(file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("peft", "idle"),
    [
        ("dora", set()),
        ("ia3", {"lora_r", "lora_alpha"}),
        ("bias", {"lora_r", "lora_alpha", "target_modules"}),
    ],
)
def test_an_option_that_the_peft_method_has_no_use_for_is_warned_of(peft, idle, tmp_path, caplog):
    load_config("llama-3.2-1b-lora", overrides=[f"model.peft={peft}"])
    assert caplog.text == ""  # the preset's own settings are nobody's mistake
    file = tmp_path / "run.toml"
    file.write_text("[model]\nlora_alpha = 8\n")
    overrides = [f"model.peft={peft}", "model.lora_r=4", "model.target_modules=q_proj", "model.max_length=64"]
    load_config("llama-3.2-1b-lora", file, overrides)
    assert {message.split(":")[0] for message in caplog.messages} == {f"option model.{name}" for name in idle}
    assert all(f"no effect with model.peft={peft}" in message for message in caplog.messages)


def test_every_option_is_documented_where_it_is_defined():
    import ast
    import inspect

    import humanpref.config

    documented = set()
    for node in ast.walk(ast.parse(inspect.getsource(humanpref.config))):
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    documented.add((node.name, field.target.id))
    for family, sections in FAMILIES.items():
        for section in (sections.model, sections.training, sections.inference):
            for option in dataclasses.fields(section):
                owners = [kind.__name__ for kind in section.__mro__]
                assert any((owner, option.name) in documented for owner in owners), (family, option.name)
    assert "training.epochs" in valid_keys("encoder")
    assert "training.epochs" not in valid_keys("sparse")
