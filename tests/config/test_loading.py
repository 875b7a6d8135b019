import pytest

from humanpref.config import FAMILIES, from_dict, load_config, preset_names
from humanpref.config.bounds import checked, hints_of
from humanpref.schema import InputError


def test_every_preset_resolves_and_survives_its_own_json():
    expected = {
        "prior",
        "sparse",
        "embedding",
        "tiny",
        "deberta-v3-small",
        "deberta-v3-base",
        "albert-base-v2",
    }
    assert expected <= set(preset_names())
    for name in preset_names():
        config = load_config(name)
        assert config.preset == name
        assert from_dict(config.to_dict(), "test") == config


def test_the_reports_settings():
    config = load_config("deberta-v3-small")
    assert config.model.backbone == "microsoft/deberta-v3-small"
    assert (config.model.max_length, config.training.batch_size, config.training.learning_rate) == (
        512,
        16,
        2e-5,
    )
    assert (config.training.epochs, config.seed, config.training.accumulation) == (1, 42, 1)


def test_precedence_preset_then_file_then_override(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "tiny"\nseed = 7\n[training]\nepochs = 9\nbatch_size = 3\n')
    config = load_config(file=file, overrides=["training.epochs=2", "model.backbone=/some/where"])
    assert (config.preset, config.seed, config.training.epochs, config.training.batch_size) == (
        "tiny",
        7,
        2,
        3,
    )
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
    with pytest.raises(InputError, match="does not match preset tiny"):
        load_config("tiny", file)


def test_an_optional_value_can_be_unset(tmp_path):
    assert load_config("deberta-best").training.max_grad_norm == 1.0
    assert (
        load_config(
            "deberta-best", overrides=["training.max_grad_norm=none"]
        ).training.max_grad_norm
        is None
    )
    file = tmp_path / "run.toml"
    file.write_text('preset = "deberta-best"\n[training]\nmax_grad_norm = "none"\n')
    assert load_config(file=file).training.max_grad_norm is None
    # Where `none` is a choice or a text, it stays one.
    assert load_config("deberta-best", overrides=["model.offset=none"]).model.offset == "none"
    assert (
        load_config("llama-3.2-1b-lora", overrides=["model.question=none"]).model.question == "none"
    )


@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        (
            "tiny",
            "training.epocs=3",
            r"unknown option 'training.epocs'.*did you mean 'training.epochs'",
        ),
        ("tiny", "model.epochs=3", "did you mean 'training.epochs'"),
        ("tiny", "epochs=3", "did you mean 'training.epochs'"),
        ("sparse", "training.epochs=3", "unknown option 'training.epochs' for family sparse"),
        ("tiny", "training.epochs", "expected section.key=value"),
        ("tiny", "training.epochs=2.5", "training.epochs: expected int, got 2.5"),
        ("tiny", "training.epochs=many", "training.epochs: expected int, got 'many'"),
        ("tiny", "training.epochs=0", "training.epochs: expected at least 1, got 0"),
        ("tiny", "training.learning_rate=nan", "training.learning_rate"),
        ("tiny", "training.learning_rate=true", "training.learning_rate: expected float, got True"),
        (
            "tiny",
            "training.precision=fp8",
            "training.precision: expected one of auto, bf16, fp16, no",
        ),
        ("tiny", "training.validation_fraction=0.9", "training.validation_fraction"),
        ("tiny", "preset=sparse", "unknown option 'preset'"),
        (
            "llama-3.2-1b-dpo",
            "training.head_learning_rate=1e-3",
            "training.head_learning_rate: .*dpo has no head",
        ),
        ("tiny", "training.lr=1e-4", "did you mean 'training.learning_rate'"),
        ("tiny", "batch=4", "did you mean 'training.batch_size'"),
        ("llama-3.2-1b-lora", "model.rank=4", "did you mean 'model.lora_r'"),
        ("tiny", "training.epochs=none", "training.epochs: expected int, got 'none'"),
        ("prior", "model.nonsense=1", "unknown option 'model.nonsense' for family prior$"),
        ("tiny", "model.nonsense=1", "unknown option 'model.nonsense' for family encoder$"),
        ("tini", "seed=1", r"unknown preset 'tini' \(did you mean 'tiny'\?\)"),
    ],
)
def test_what_does_not_fit_is_named(preset, override, message):
    with pytest.raises(InputError, match=message):
        load_config(preset, overrides=[override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'preset = "tiny"\n[training]\nepocs = 1\n',
            "run.toml: unknown option 'training.epocs'.*training.epochs",
        ),
        ('preset = "tiny"\ntraining = 3\n', r"\[training\]: expected a section"),
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
    overrides = [
        f"model.peft={peft}",
        "model.lora_r=4",
        "model.target_modules=q_proj",
        "model.max_length=64",
    ]
    load_config("llama-3.2-1b-lora", file, overrides)
    assert {message.split(":")[0] for message in caplog.messages} == {
        f"option model.{name}" for name in idle
    }
    assert all(f"no effect with model.peft={peft}" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("preset", "idle", "why", "used"),
    [
        ("llama-3.2-1b-lora", "model.answers=a,b,c", "model.head=linear", "model.head=tokens"),
        ("tiny", "training.beta=2", "training.loss=cross-entropy", "training.loss=dpo-like"),
        ("tiny", "training.temperature=2", "training.loss=dpo-like", "training.loss=distillation"),
        ("tiny", "model.scratch_layers=2", "model.backbone=./x", "model.backbone=scratch"),
        ("embedding", "model.hidden=8", "model.head=linear", "model.head=mlp"),
        ("embedding", "model.structure_penalties=[1]", "model.head=mlp", "model.head=linear"),
        ("boosted", "model.candidates=8", "model.selection=none", "model.selection=forward"),
        ("boosted", "model.patience=8", "model.rounds=9", "model.rounds=none"),
    ],
)
def test_an_option_that_another_one_makes_needless_is_warned_of(preset, idle, why, used, caplog):
    load_config(preset, overrides=[why])
    load_config(preset, overrides=[idle, used])
    assert not caplog.messages
    load_config(preset, overrides=[idle, why])
    assert caplog.messages == [f"option {idle.partition('=')[0]}: has no effect with {why}"]


def test_what_an_option_is_used_with_are_options_and_their_values():
    kinds = {kind for family in FAMILIES.values() for kind in family}
    for kind in kinds:
        hints = hints_of(kind)
        for name, (other, values) in kind.used_with.items():
            assert name in hints
            for value in values:
                checked(other, hints[other], value)
