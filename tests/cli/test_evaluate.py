import json
from pathlib import Path

from .refusals import refused


def test_one_artifact_and_two(run, artifact, arena):
    data = arena / "test_labels.csv"
    code, out, _ = run("evaluate", artifact, "--data", data, "--json", "one.json")
    assert (code, len(out.splitlines())) == (0, 1)
    assert out.startswith(f"{data}: 24 rows, log loss 1.")
    one = json.loads(Path("one.json").read_text())
    assert (one["rows"], one["rows_trained_on"]) == (24, 0)
    train = ["train", "--preset", "prior", "--train", data, "--out", "B"]
    assert run(*train, "--set", "training.validation_fraction=0")[0] == 0
    evaluate = ["evaluate", artifact, "B", "--data", data, "--json", "two.json", "--html", "page"]
    code, out, _ = run(*evaluate)
    assert code == 0
    first, second, difference, page = out.splitlines()
    assert first.startswith(f"{artifact}: 24 rows, log loss 1.")
    assert second.startswith("B: 24 rows, log loss 1.")
    assert difference.startswith(f"B against {artifact}: -0.")
    assert page == "page: page/index.html"
    assert Path("page/index.html").is_file()
    two = json.loads(Path("two.json").read_text())
    assert two["artifacts"]["B"]["rows_trained_on"] == 24
    assert two["artifacts"][str(artifact)] == one


def test_rows_that_cannot_be_used(run, artifact, tmp_path):
    refused(run("evaluate", artifact, "--data", "none.csv", "--json", "f.json"), "none.csv")
    assert not list(tmp_path.iterdir())


def test_outputs_in_each_others_way(run, arena):
    data = arena / "test_labels.csv"
    evaluate = ["evaluate", "none", "--data", data, "--html", "a/b", "--json"]
    refused(run(*evaluate, "a"), "--html a/b: is the same path as --json, or inside it")
