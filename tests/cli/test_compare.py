import pandas as pd
import pytest

from humanpref.cli.compare import ABLATIONS, key_value
from humanpref.cli.main import main
from humanpref.schema import InputError


def test_compare_takes_every_preset_with_every_peft_method(monkeypatch, arena, tmp_path, capsys):
    seen = []

    def spy(variants, *rest):
        seen.extend(variants)
        return pd.DataFrame({"name": [variant.name for variant in variants]})

    monkeypatch.setattr("humanpref.studies.compare.compare", spy)
    arguments = [
        "compare",
        "--presets",
        "llama-3.2-1b-lora,qwen-2.5-7b-qlora",
        "--peft",
        "lora,ia3",
        "--set",
        "seed=1",
    ]
    assert (
        main([*arguments, "--train", str(arena / "train.csv"), "--out", str(tmp_path / "out")]) == 0
    )
    names = [
        "llama-3.2-1b-lora-lora",
        "llama-3.2-1b-lora-ia3",
        "qwen-2.5-7b-qlora-lora",
        "qwen-2.5-7b-qlora-ia3",
    ]
    assert [variant.name for variant in seen] == names
    assert [(c.config().model.peft, c.config().seed) for c in seen] == [("lora", 1), ("ia3", 1)] * 2


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablate_calls_the_ablation_with_its_default_preset(run, monkeypatch, name):
    seen = []

    def ablate(*arguments):
        seen.append(arguments)
        return pd.DataFrame({"name": ["first"]})

    monkeypatch.setattr("humanpref.studies.ablations.ablate", ablate)
    settings = ("--set", "seed=1", "--folds", 3, "--format", "plain")
    code, out, _ = run("ablate", name, "--train", "rows.csv", "--out", "out", *settings)
    assert (code, out) == (0, "| name |\n| --- |\n| first |\n")
    ((ablation, preset, overrides, train, folder, folds, format),) = seen
    assert (ablation, preset) == (name, ABLATIONS[name][0])
    assert (overrides, folds, format) == (("seed=1",), 3, "plain")
    assert (str(train), str(folder)) == ("rows.csv", "out")


def test_a_backbone_for_a_preset():
    assert key_value("tiny=a=b") == ("tiny", "a=b")
    with pytest.raises(InputError, match="--backbone 'tiny': expected PRESET=FOLDER"):
        key_value("tiny")
