"""The commands as a user starts them: exit codes, one-line errors, nothing written where nothing
should be."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from humanpref.runs.artifact_files import seal
from humanpref.training import device

from .refusals import GOOD, refused


def test_from_sample_to_scores(run, tmp_path):
    assert run("sample", "--rows", 60, "--seed", 1, "--out", "arena")[0] == 0
    assert {path.name for path in (tmp_path / "arena").iterdir()} == {
        "train.csv",
        "test.csv",
        "sample_submission.csv",
        "truth.csv",
        "test_labels.csv",
    }
    settings = ["--set", "model.term_penalties=10", "--set", "model.structure_penalties=100"]
    code, out, _ = run(
        "train", "--preset", "sparse", "--train", "arena/train.csv", "--out", "A", *settings
    )
    assert code == 0
    assert "validation: " in out
    code, out, _ = run("predict", "A", "--test", "arena/test.csv", "--out", "submission.csv")
    assert (code, out) == (0, "submission.csv: 12 rows\n")
    submission = pd.read_csv("submission.csv", dtype={"id": str})
    assert (
        submission["id"].tolist() == pd.read_csv("arena/test.csv", dtype={"id": str})["id"].tolist()
    )
    np.testing.assert_allclose(submission.iloc[:, 1:].sum(axis=1), 1, atol=1e-9)
    code, out, _ = run("evaluate", "A", "--data", "arena/test_labels.csv", "--json", "figures.json")
    assert code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert {
        "log_loss",
        "log_loss_low",
        "log_loss_high",
        "accuracy",
        "prior_log_loss",
        "rows",
    } <= set(figures)
    assert f"log loss {figures['log_loss']:.4f}" in out
    assert "flattering" not in out
    code, out, _ = run("evaluate", "A", "--data", "arena/train.csv", "--json", "figures.json")
    trained_on = json.loads((tmp_path / "figures.json").read_text())["rows_trained_on"]
    assert (code, 0 < trained_on < 60) == (0, True)
    assert out.endswith(f"; optimistic: trained on {trained_on} of these rows\n")


def test_a_training_that_left_something_out_says_so(run, arena):
    train = ["--quiet", "train", "--train", arena / "train.csv", "--set"]
    code, out, _ = run(
        *train, 'model.members=["prior", "embedding"]', "--preset", "cpu-best", "--out", "A"
    )
    assert code == 0
    assert (
        "model: blended without embedding, which needs a model folder (model.backbone=FOLDER)\n"
        in out
    )
    pytest.importorskip("torch")
    tiny = [
        "--preset",
        "tiny",
        "--set",
        "model.max_length=32",
        "--set",
        "model.scratch_hidden_size=8",
    ]
    code, out, _ = run(*train, "training.seconds=1e-9", *tiny, "--out", "B")
    assert code == 0
    assert "model: training stopped after 1e-09 s, in epoch 1 at step 1 of " in out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["bad.csv", "cannot be read"]),
        ("", ["the file is empty"]),
        (",".join(GOOD) + "\n", ["there is a header but no rows"]),
        (b"\x89PNG\xff\xfe\x00", ["expected text or Parquet, got binary data"]),
        ({"response_b": None}, ["missing column 'response_b'"]),
        ({"prompt": "hello"}, ["row 1", "id '1'", "'prompt'", "not JSON"]),
        ({"prompt": '{"a": 1}'}, ["row 1", "'prompt'", "a JSON object"]),
        ({"winner_tie": "maybe"}, ["row 1", "'winner_tie'", "'maybe'"]),
        ({"winner_tie": "1"}, ["row 1", "sum of 1, got 2"]),
        ({"winner_model_a": "-1"}, ["'winner_model_a'", "[0, 1]"]),
        ([GOOD, GOOD], ["row 2", "duplicate id"]),
    ],
)
def test_training_rows_that_cannot_be_used(run, tmp_path, content, words):
    if isinstance(content, bytes):
        (tmp_path / "bad.csv").write_bytes(content)
    elif isinstance(content, str):
        (tmp_path / "bad.csv").write_text(content)
    elif content is not None:
        rows = content if isinstance(content, list) else [GOOD | content]
        pd.DataFrame(rows).dropna(axis=1).to_csv("bad.csv", index=False)
    before = sorted(tmp_path.iterdir())
    refused(run("train", "--preset", "prior", "--train", "bad.csv", "--out", "A"), *words)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_settings_that_cannot_be_used(run, arena, tmp_path):
    train = ["--train", arena / "train.csv", "--out", "A"]
    refused(
        run("train", "--preset", "sparce", *train),
        "unknown preset 'sparce'",
        "did you mean 'sparse'",
    )
    refused(
        run("train", "--preset", "tiny", "--set", "training.epoch=1", *train),
        "did you mean 'training.epochs'",
    )
    # Without torch the family is refused before its backbone is looked for.
    reason = (
        "nowhere/at/all: no such model here: --set model.backbone=FOLDER (no such folder; the hub: "
        if importlib.util.find_spec("torch")
        else "needs torch: pip install "
    )
    refused(
        run("train", "--preset", "tiny", "--set", "model.backbone=nowhere/at/all", *train), reason
    )
    refused(run("train", "--preset", "prior", "--folds", "1", *train), "folds: expected at least 2")
    refused(
        run("train", "--preset", "prior", "--config", "none.toml", *train),
        "none.toml",
        "cannot be read",
    )
    refused(run("train", *train), "--preset")
    refused(run("sample", "--rows", 0, "--out", "arena"), "rows")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_is_not_ours(run, arena, tmp_path):
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "letter.txt").write_text("dear")
    refused(
        run("train", "--preset", "prior", "--train", arena / "train.csv", "--out", "A"),
        "A: already exists",
    )
    assert [path.name for path in (tmp_path / "A").iterdir()] == ["letter.txt"]
    refused(run("predict", "A", "--test", arena / "test.csv", "--out", "s.csv"), "not an artifact")


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_an_artifact_with_other_weights(run, arena, tmp_path, change):
    assert run("train", "--preset", "prior", "--train", arena / "train.csv", "--out", "A")[0] == 0
    path = tmp_path / "A" / "model" / "model.safetensors"
    arrays = load_file(path)
    save_file(
        {"other": arrays["rates"]} if change == "missing" else arrays | {"other": arrays["rates"]},
        path,
    )
    predict = ["predict", "A", "--test", arena / "test.csv", "--out", "s.csv"]
    refused(run(*predict), "model.safetensors: damaged or changed since it was written")
    seal(tmp_path / "A", json.loads((tmp_path / "A" / "artifact.json").read_text()))
    result = run(*predict)
    refused(
        result, "extra weights other", *(["missing weights rates"] if change == "missing" else [])
    )
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.slow
def test_teachers_extra_rows_and_blends(run, arena, tmp_path):
    rows, prior = ["--train", arena / "train.csv", "--folds", 2], ["train", "--preset", "prior"]
    settings = ["--set", "model.term_penalties=10", "--set", "model.structure_penalties=100"]
    assert run("train", "--preset", "sparse", *settings, *rows, "--out", "A")[0] == 0
    code, out, _ = run(
        "predict",
        "A",
        "--labels",
        "--weight",
        0.5,
        "--test",
        arena / "test.csv",
        "--out",
        "soft=.csv",
    )
    assert (code, out) == (0, "soft=.csv: 24 rows\n")
    names = pd.read_csv(arena / "train.csv").columns
    assert pd.read_csv("soft=.csv").columns.tolist() == [
        *(c for c in names if "model_" not in c or "win" in c),
        "weight",
    ]
    extra = ["--extra", "soft=.csv=0.1", arena / "test_labels.csv", "--extra", "soft=.csv"]
    code, _, _ = run(*prior, *rows, *extra, "--exclude-prompts", arena / "test.csv", "--out", "E")
    assert code == 0
    data = json.loads((tmp_path / "E" / "metrics.json").read_text())["data"]
    found = [(source["file"], source["weight"], source["excluded"]) for source in data["extra"]]
    assert found == [("soft=.csv", 0.1, 24), ("test_labels.csv", 1.0, 24), ("soft=.csv", 1.0, 24)]
    assert run(*prior, *rows, "--teacher", "A=0.5", "--out", "B")[0] == 0
    (told,) = json.loads((tmp_path / "B" / "metrics.json").read_text())["data"]["teachers"]
    assert told == {"name": "A", "share": 0.5, "temperature": 1.0, "rows": 120}
    several = ["--teacher", "A=0.5", "B", "--teacher-temperature", 2]
    assert run(*prior, *rows, *several, "--out", "F")[0] == 0
    told = json.loads((tmp_path / "F" / "metrics.json").read_text())["data"]["teachers"]
    assert [(each["name"], each["share"], each["temperature"]) for each in told] == [
        ("A", 0.5, 2.0),
        ("B", 0.5, 2.0),
    ]
    code, out, _ = run("blend", "A", "B", "--out", "C", "--mean", "geometric")
    assert code == 0
    for words in (
        "A: weight ",
        "B: weight ",
        "geometric mean, temperature ",
        "(flattering)",
        "artifact: C\n",
    ):
        assert words in out
    assert run("evaluate", "C", "--data", arena / "test_labels.csv")[0] == 0
    refused(run("blend", "A", "--out", "D"), "at least two")
    refused(
        run("predict", "A", "--weight", 1, "--test", arena / "test.csv", "--out", "s.csv"),
        "--weight",
        "--labels",
    )
    refused(
        run(*prior, *rows, "--extra", "soft=.csv=0", "--out", "D"), "soft=.csv", "positive weight"
    )
    refused(run(*prior, *rows, "--extra", "none.csv=x", "--out", "D"), "none.csv=x: cannot be read")
    refused(
        run(*prior, *rows, "--teacher", "soft=.csv", "--out", "D"),
        "soft=.csv: no probabilities for 120 of 120",
    )
    refused(run(*prior, *rows, "--teacher", "nobody", "--out", "D"), "nobody: cannot be read")
    assert not list(tmp_path.glob("D*"))


def test_help_and_sparse_start_without_torch(arena, tmp_path):
    settings = ["--set", "model.term_penalties=10", "--set", "model.structure_penalties=100"]
    train = [
        "train",
        "--preset",
        "sparse",
        "--train",
        str(arena / "train.csv"),
        "--out",
        str(tmp_path / "A"),
        *settings,
    ]
    code = (
        "import sys\n"
        "from humanpref.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"code = main({train!r})\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sample" in done.stdout


def test_an_unexpected_error_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("humanpref.arena.write_arena", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("sample", "--out", "arena")


def test_train_warns_where_a_gpu_is_needed_and_none_works(run, arena, monkeypatch, caplog):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(device, "lacking", lambda: "none was found")
    order = ("train", "--train", arena / "train.csv", "--out", "artifact", "--preset")
    assert run(*order, "prior")[0] == 0
    assert "GPU" not in caplog.text
    code, _, error = run(*order, "deberta-v3-small", "--set", "model.backbone=./no-folder")
    assert (
        "preset deberta-v3-small: needs a GPU, and none was found; continuing on the CPU"
        in caplog.text
    )
    assert code == 2
    assert "GPU" not in error  # what ends it is something else


def test_a_file_whose_name_looks_like_a_share(run, arena, artifact, tmp_path):
    train = ["train", "--preset", "prior", "--train", arena / "train.csv", "--folds", 2]
    shutil.copytree(artifact, tmp_path / "seed=1")
    assert run(*train, "--teacher", "seed=1", "--out", "B")[0] == 0
    (told,) = json.loads((tmp_path / "B" / "metrics.json").read_text())["data"]["teachers"]
    assert (told["name"], told["share"]) == ("seed=1", 1)
    refused(
        run(*train, "--teacher", "seed=2", "--out", "C"),
        "seed",
        "expected a share above 0 and at most 1, got 2",
    )


def test_outputs_that_would_harm_are_refused_before_the_work(run, artifact, arena, tmp_path):
    rows, before = arena / "test_labels.csv", (artifact / "metrics.json").read_text()
    inside = "an input; name a path outside it"
    refused(
        run("evaluate", artifact, "--data", rows, "--json", artifact / "metrics.json"),
        "metrics.json",
        inside,
    )
    refused(run("evaluate", artifact, "--data", rows, "--html", artifact / "page"), "page", inside)
    refused(
        run("predict", artifact, "--test", rows, "--out", artifact / "oof.csv"), "oof.csv", inside
    )
    refused(run("score", artifact, "--in", rows, "--out", artifact / "oof.csv"), "oof.csv", inside)
    refused(run("selection", artifact, "--figure", artifact / "oof.png"), "oof.png", inside)
    assert (artifact / "metrics.json").read_text() == before
    (tmp_path / "file").touch()
    # Before the artifact is even looked for.
    refused(
        run("evaluate", "none", "--data", rows, "--html", "file/page"),
        "file/page: cannot be written",
    )
    refused(
        run("evaluate", "none", "--data", rows, "--json", "a", "--html", "a"),
        "--html a: is the same path as --json",
    )
    refused(run("blend", "none", "none", "--out", "file/blend"), "file/blend: cannot be written")


def test_errors_of_the_system_are_one_line(run, artifact, arena, tmp_path):
    rows = arena / "train.csv"
    (tmp_path / "file").touch()
    refused(
        run("compare", "--presets", "prior", "--train", rows, "--out", "file/x"),
        "file/x: Not a directory",
    )
    refused(
        run("train", "--preset", "prior", "--train", rows, "--out", "x" * 250), "File name too long"
    )
    refused(run("predict", "x" * 300, "--test", rows, "--out", "s.csv"), "File name too long")
    with pytest.raises(OSError, match="too long"):
        run("--traceback", "predict", "x" * 300, "--test", rows, "--out", "s.csv")
    assert os.listdir() == ["file"]


@pytest.mark.slow
def test_names_and_terminals_that_are_not_utf8(arena, tmp_path):
    rows = tmp_path / os.fsdecode(b"caf\xe9.csv")
    shutil.copy(arena / "train.csv", rows)
    start = [sys.executable, "-m", "humanpref.cli"]
    options = {
        "env": os.environ | {"PYTHONIOENCODING": "ascii"},
        "capture_output": True,
        "cwd": tmp_path,
        "timeout": 120,
    }
    train = [*start, "train", "--preset", "prior", "--train", rows, "--out", "A"]
    done = subprocess.run(train, **options, check=False)
    assert done.returncode == 0, done.stderr
    # The table has a dash for what is not known.
    done = subprocess.run([*start, "runs", ".", "--all"], **options, check=False)
    assert done.returncode == 0, done.stderr
    assert b"\\u2013" in done.stdout


def test_the_kaggle_commands_without_their_libraries(tmp_path):
    code = """
import importlib.metadata, sys
for name in ("packaging", "kaggle", "kagglesdk", "requests", "slugify"):
    sys.modules[name] = None
def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = missing
from humanpref.cli.main import main
for command in sys.argv[1:]:
    print(command, main(["kaggle", *command.split()]))
"""
    commands = ["data", "dry-run", "bundle", "check", "push", "wait", "output", "status", "scores"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *commands], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.stdout.splitlines() == [f"{command} 2" for command in commands]
    lines = ended.stderr.splitlines()
    assert len(lines) == len(commands), ended.stderr
    for line in lines:
        assert line.startswith("humanpref: this needs the "), line
        assert re.search(r"pip install .*\[kaggle\]", line), line
