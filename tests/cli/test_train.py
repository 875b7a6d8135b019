import json
from pathlib import Path

import pandas as pd
import pytest

from humanpref.cli.train import file_and_number

from .refusals import refused


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
    assert (code, "of family prior, which cannot start from weights" in error) == (2, True)
    code, _, error = run(*train, arena / "train.csv", "--drop-learned", "--out", "three")
    assert (code, "--drop-learned: needs --from" in error) == (2, True)


def test_each_file_can_have_its_own_format(run, arena, tmp_path):
    rows = [
        {"prompt": f"p {i}", "chosen": "a", "rejected": "b", "response_a": "c", "response_b": "d"}
        for i in range(3)
    ]
    lines = "\n".join(map(json.dumps, rows))
    for name in ("both.jsonl", "plain:both"):
        (tmp_path / name).write_text(lines)
    train = ["--quiet", "train", "--preset", "prior", "--train", arena / "train.csv"]
    doubt = "both.jsonl: has the columns of several formats, competition and chosen-rejected"
    refused(run(*train, "--extra", "both.jsonl=0.5", "--out", "A"), doubt, "competition:FILE")
    refused(run(*train, "--exclude-prompts", "both.jsonl", "--out", "A"), doubt)
    extra = ["--extra", "chosen-rejected:both.jsonl=0.5", "--exclude-prompts", "plain:both.jsonl"]
    assert run(*train, *extra, "--out", "A")[0] == 0
    data = json.loads((tmp_path / "A" / "metrics.json").read_text())["data"]
    expected = {"file": "both.jsonl", "weight": 0.5, "rows": 3, "excluded": 3}
    assert data["extra"] == [expected]
    # The name of an existing file.
    refused(run(*train, "--extra", "plain:both", "--out", "B"), "plain:both: has the columns of")
