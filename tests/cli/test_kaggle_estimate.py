"""`humanpref kaggle estimate`."""

from humanpref.arena import write_arena
from humanpref.cli.main import main


def test_a_preset(capsys):
    assert main(["kaggle", "estimate", "--preset", "gemma-2-9b-qlora"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "preset gemma-2-9b-qlora"
    kinds = [line.split()[0] for line in lines[1:]]
    assert kinds == ["memory", "training", "inference", "verdict", "assumed", "assumed"]
    assert "rows as long as 1,000 public ones" in lines[-2]


def test_the_files_lengths_count(capsys, tmp_path):
    write_arena(tmp_path, rows=30, seed=1)
    arguments = ["kaggle", "estimate", "--preset", "deberta-v3-base"]
    arguments += ["--train", str(tmp_path / "train.csv"), "--test", str(tmp_path / "test.csv")]
    assert main([*arguments, "--rows", "1000", "--test-rows", "500"]) == 0
    out = capsys.readouterr().out
    assert f"rows of {tmp_path / 'train.csv'} and the " in out
    assert "(0.23 tokens for each character); 1,000 training and 500 test rows" in out
    assert "verdict    fits" in out


def test_every_preset_and_those_without_a_gpu(capsys):
    assert main(["kaggle", "estimate"]) == 0
    out = capsys.readouterr().out
    assert "preset sparse: needs no GPU" in out
    assert out.count("  verdict  ") == out.count("  memory  ") == 13


def test_counts_that_are_none(capsys):
    for flag, value, expected in (("rows", "0", 1), ("test-rows", "-5", 1), ("folds", "1", 2)):
        assert main(["kaggle", "estimate", "--preset", "tiny", f"--{flag}", value]) == 2
        assert f"expected at least {expected}" in capsys.readouterr().err


def test_unknown_sizes(capsys):
    arguments = ["kaggle", "estimate", "--preset", "deberta-v3-base"]
    assert main([*arguments, "--set", "model.backbone=my/encoder"]) == 2
    assert "option model.backbone: the layer sizes of my/encoder are" in capsys.readouterr().err
