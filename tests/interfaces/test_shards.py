"""A folder of shards: order, restarts, and folders that will not do."""

import json
import os
import shutil

import numpy as np
import pytest

import humanpref
from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.files import locked
from humanpref.interfaces import shards
from humanpref.interfaces.shards import Total, judge_shards
from humanpref.runs.train import train
from humanpref.schema import InputError


@pytest.fixture
def source(tmp_path, pairs):
    """Twelve shards of two rows."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = pairs[["prompt", "response_a", "response_b"]][:24].to_dict("records")
    for n in range(12):
        text = "".join(json.dumps(row) + "\n" for row in rows[2 * n : 2 * n + 2])
        (folder / f"part-{n}.jsonl").write_text(text, "utf-8")
    (folder / "_SUCCESS").touch()
    return folder


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "artifact"
    return train(load_config("prior"), arena / "train.csv", out).folder


def contents(folder):
    """The bytes of all files, records included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_row_is_judged_in_its_order(source, tmp_path, pairs):
    assert judge_shards(source, tmp_path / "out") == Total(shards=12, rows=24, skipped=0)
    judged = read_pairs(tmp_path / "out")
    assert judged["prompt"].tolist() == pairs["prompt"][:24].tolist()
    rows = [
        json.loads(line)
        for n in range(12)
        for line in (tmp_path / f"out/part-{n}.jsonl").read_text("utf-8").splitlines()
    ]
    made = [[row["p_a"], row["p_b"], row["p_tie"]] for row in rows]
    np.testing.assert_array_equal(made, humanpref.load().judge_many(pairs[:24]))


def test_one_bad_shard_does_not_stop_the_others_and_a_restart_skips_them(source, tmp_path):
    judge_shards(source, tmp_path / "expected")
    bad, out = source / "part-3.jsonl", tmp_path / "out"
    good = bad.read_bytes()
    bad.write_bytes(good[:-30])
    with pytest.raises(InputError, match=r"part-3.jsonl: row 2: not valid JSON .*1 of 12 shards"):
        judge_shards(source, out)
    assert len(list(out.glob("part-*"))) == 11
    bad.write_bytes(good)
    assert judge_shards(source, out) == Total(shards=12, rows=24, skipped=11)
    assert judge_shards(source, out) == Total(shards=12, rows=24, skipped=12)
    assert contents(out) == contents(tmp_path / "expected")


def test_an_interrupted_run_continues_and_what_it_left_is_removed(source, tmp_path, monkeypatch):
    judge_shards(source, tmp_path / "expected")
    out, replaced = tmp_path / "out", []

    def interrupted(old, new):
        if "part-5" in str(new) and str(new).endswith(".jsonl"):
            raise KeyboardInterrupt
        replaced.append(new)
        return replace(old, new)

    replace = os.replace
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge_shards(source, out)
    monkeypatch.undo()
    # A killed process cannot clean up.
    (out / "_unfinished").mkdir()
    (out / "_unfinished" / "part-5.tries").write_text("...")
    (out / "_unfinished" / "half").write_text("half")
    finished = len(list(out.glob("part-*")))
    assert 0 < finished < 12
    assert judge_shards(source, out) == Total(shards=12, rows=24, skipped=finished)
    assert contents(out) == contents(tmp_path / "expected")


def test_a_folder_has_one_model(source, tmp_path, artifact, monkeypatch):
    out = tmp_path / "out"
    judge_shards(source, out, artifact)
    before = contents(out)
    with pytest.raises(InputError, match="was judged with a different model; name a new folder"):
        judge_shards(source, out)
    # The folder's name does not matter, but its content does.
    moved = artifact.with_name("moved")
    artifact.rename(moved)
    assert judge_shards(source, out, moved).skipped == 12
    (moved / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="was judged with a different model"):
        judge_shards(source, out, moved)
    moved.rename(artifact)
    assert contents(out) == before
    judge_shards(source, tmp_path / "packaged")
    monkeypatch.setattr(shards, "__version__", "0")
    with pytest.raises(InputError, match="by a different version of humanpref"):
        judge_shards(source, tmp_path / "packaged")


def test_a_model_that_judged_nothing_leaves_the_folder_to_another(source, tmp_path, artifact):
    for path in source.glob("part-*"):
        path.write_text("{")
    with pytest.raises(InputError, match="12 of 12 shards could not be judged"):
        judge_shards(source, tmp_path / "out")
    with pytest.raises(InputError, match="12 of 12 shards could not be judged"):
        judge_shards(source, tmp_path / "out", artifact)


def test_a_named_format_takes_texts_as_they_are(source, tmp_path):
    row = {"prompt": '["a"]', "response_a": "So.", "response_b": "No."}
    (source / "part-7.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match="1 of 12 shards could not be judged"):
        judge_shards(source, tmp_path / "out")
    with pytest.raises(InputError, match="was judged with a different --format; name a new folder"):
        judge_shards(source, tmp_path / "out", format="plain")
    for path in source.glob("part-*"):
        path.write_text(json.dumps(row))
    assert judge_shards(source, tmp_path / "plain", format="plain").rows == 12
    made = json.loads((tmp_path / "plain" / "part-7.jsonl").read_text())
    (expected,) = humanpref.load().judge_many([{key: [text] for key, text in row.items()}])
    assert [made["p_a"], made["p_b"], made["p_tie"]] == expected.tolist()


def test_a_shard_that_is_gone_is_named(source, tmp_path):
    judge_shards(source, tmp_path / "out")
    (source / "part-7.jsonl").unlink()
    with pytest.raises(InputError, match=r"out: has shard 'part-7', which .*in does not have"):
        judge_shards(source, tmp_path / "out")


def test_files_of_others_are_not_left_among_the_outputs(source, tmp_path):
    out = tmp_path / "out"
    judge_shards(source, out)
    (out / "_done" / "part-7.json").unlink()
    (source / "part-7.jsonl").unlink()
    with pytest.raises(InputError, match=r"out: has 'part-7.jsonl', which is not the output of a"):
        judge_shards(source, out)
    (out / "part-7.jsonl").rename(out / "part-6.csv")
    with pytest.raises(InputError, match=r"out: has 'part-6.csv', which is not the output of a"):
        judge_shards(source, out)
    (out / "part-6.csv").rename(out / ".part-6.csv")
    assert judge_shards(source, out) == Total(shards=11, rows=22, skipped=11)


def test_a_model_that_changes_while_it_judges_is_noticed(source, tmp_path, artifact, monkeypatch):
    changed = tmp_path / "artifact"
    shutil.copytree(artifact, changed)

    class Changing(shards.ShardJudge):
        def judge(self, path):
            (changed / "metrics.json").write_text("changed")
            return super().judge(path)

    monkeypatch.setattr(shards, "ShardJudge", Changing)
    with pytest.raises(InputError, match=r"artifact: was changed during the run"):
        judge_shards(source, tmp_path / "out", changed)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"was judged with a different model"):
        judge_shards(source, tmp_path / "out", changed)


def test_folders_that_will_not_do(source, tmp_path):
    def told(source, out, **options):
        with pytest.raises(InputError) as error:
            judge_shards(source, out, **options)
        return str(error.value)

    out = tmp_path / "out"
    assert "expected a folder of shards" in told(source / "part-0.jsonl", out)
    assert "is inside" in told(source, source / "out")
    assert "expected local or ray, got 'spark'" in told(source, out, engine="spark")
    assert "option --workers" in told(source, out, workers=2)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").touch()
    assert "own: already exists" in told(source, tmp_path / "own")
    (source / "part-0.parquet").touch()
    assert "its output would have the same name as that of part-0.jsonl" in told(source, out)
    (source / "part-0.parquet").unlink()
    (source / ("x" * 250 + ".csv")).touch()
    assert "its output's name would have over 255 bytes" in told(source, out)
    (source / ("x" * 250 + ".csv")).unlink()
    (source / "more").mkdir()
    assert "more: expected a file" in told(source, out)
    (tmp_path / "none").mkdir()
    assert "a folder without files" in told(tmp_path / "none", out)
    assert not out.exists()


def test_a_shard_that_a_cluster_repeats_was_not_finished_before(source, tmp_path, monkeypatch):
    class Repeating(shards.ShardJudge):
        def judge(self, path):
            super().judge(path)
            return super().judge(path)

    monkeypatch.setattr(shards, "ShardJudge", Repeating)
    assert judge_shards(source, tmp_path / "out") == Total(shards=12, rows=24, skipped=0)
    assert judge_shards(source, tmp_path / "out") == Total(shards=12, rows=24, skipped=12)


def test_two_runs_do_not_write_the_same_folder(source, tmp_path):
    out = tmp_path / "out"
    judge_shards(source, out)
    with locked(out / "_done"), pytest.raises(InputError, match="written by another process"):
        judge_shards(source, out)
