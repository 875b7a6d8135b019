from pathlib import Path

import pandas as pd
import pytest

from humanpref.cli.train import file_and_number


@pytest.mark.parametrize(
    ("text", "file", "number"),
    [
        ("rows.csv", "rows.csv", 1.0),
        ("rows.csv=0.5", "rows.csv", 0.5),
        ("a=b.csv", "a=b.csv", 1.0),
        ("a=b.csv=2", "a=b.csv", 2.0),
        ("=2", "=2", 1.0),
        ("seed=1", "seed=1", 1.0),
    ],
)
def test_a_file_with_a_number(tmp_path, monkeypatch, text, file, number):
    monkeypatch.chdir(tmp_path)
    Path("seed=1").touch()
    assert file_and_number(text) == (Path(file), number)
    default = file_and_number(text, None)
    assert default == (Path(file), number if text.startswith(f"{file}=") else None)


def test_stages(run, arena):
    """A second stage on the same rows with other folds is refused, with the option that drops what
    the first one learned."""
    pytest.importorskip("torch")
    options = ["model.max_length=32", "model.scratch_hidden_size=16", "seed=1"]
    train = ["train", "--preset", "tiny", "--set", *options, "--train"]
    assert run(*train, arena / "train.csv", "--out", "one")[0] == 0
    stage = ["--from", "one", "--out", "two"]
    code, _, error = run(*train, arena / "train.csv", *stage, "--set", "seed=2")
    assert code == 2
    assert "--from one: learned the prompts of" in error
    assert "drop the rows with --drop-learned" in error
    code, out, _ = run(*train, arena / "train.csv", *stage, "--set", "seed=2", "--drop-learned")
    assert code == 0
    assert "artifact: two" in out
    assert run("runs", ".", "--csv", "runs.csv")[0] == 0
    table = pd.read_csv("runs.csv", keep_default_na=False).set_index("name")
    assert table["from"].to_dict() == {"one": "", "two": "one"}
    assert table["rows"].to_dict() == {  # those held out, not all that are known
        name: len(pd.read_csv(f"{name}/oof.csv")) for name in ("one", "two")
    }
    prior = ["train", "--preset", "prior", "--train", arena / "train.csv"]
    code, _, error = run(*prior, "--from", "one", "--out", "three")
    assert (code, "got prior, which cannot start from weights" in error) == (2, True)
    code, _, error = run(*train, arena / "train.csv", "--drop-learned", "--out", "three")
    assert (code, "--drop-learned: needs --from" in error) == (2, True)
