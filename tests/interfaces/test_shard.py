"""One shard: what is read, what is written, and which shards are refused."""

import gzip
import io
import json
import os

import numpy as np
import pandas as pd
import pytest

import humanpref
from humanpref.files import sha256
from humanpref.interfaces.shard import DONE, TRIES, UNFINISHED, Outcome, ShardJudge

ADDED = ["p_a", "p_b", "p_tie", "margin"]


@pytest.fixture
def shard_judge(tmp_path):
    for name in (DONE, UNFINISHED):
        (tmp_path / "out" / name).mkdir(parents=True)
    return ShardJudge(None, tmp_path / "out")


def row(number, **more):
    prompt, a, b = f"Why {number}?", "So. " * number, "Because:\n\n- one\n- two"
    return {"prompt": prompt, "response_a": a, "response_b": b, **more}


def lines(path, *rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def written(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_parquet_shard_keeps_its_rows_columns_and_types(shard_judge, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    # Ids that repeat, 64-bit integers, times, lists and nulls: nothing may pass through pandas.
    rows = [row(n, id=7, key=2**62 + n, tags=[["x"], None, []][n % 3]) for n in range(30)]
    table = pyarrow.Table.from_pylist(rows)
    table = table.append_column("at", pyarrow.array(range(30), pyarrow.timestamp("ns", "UTC")))
    source = tmp_path / "part-0.snappy.parquet"
    parquet.write_table(table, source, row_group_size=7)
    assert shard_judge.judge(source) == Outcome(source.name, 30, False, "")
    judged = parquet.read_table(shard_judge.out / "part-0.snappy.parquet")
    assert judged.column_names == [*table.column_names, *ADDED]
    assert judged.select(table.column_names).equals(table)
    expected = humanpref.load().judge_many(rows)
    np.testing.assert_array_equal(judged.select(ADDED[:3]).to_pandas().to_numpy(), expected)
    margins = np.log(expected[:, 0] / expected[:, 1])
    np.testing.assert_allclose(judged["margin"].to_numpy(), margins)


def test_json_lines_keep_all_other_keys_even_if_only_some_rows_have_them(shard_judge, tmp_path):
    rows = [row(1, meta={"x": [1.5, None, "\ud800"]}, id=3), row(2, id=3, more=10**30)]
    assert shard_judge.judge(lines(tmp_path / "a.jsonl", *rows, "")).rows == 2
    made = written(shard_judge.out / "a.jsonl")
    assert [{key: m[key] for key in r} for m, r in zip(made, rows, strict=True)] == rows
    expected = humanpref.load().judge_many(rows)
    np.testing.assert_array_equal([[m[key] for key in ADDED[:3]] for m in made], expected)


def test_any_format_in_any_file_is_read(shard_judge, tmp_path):
    asked = {"role": "user", "content": "Why 1?"}
    messages = {
        f"conversation_{side}": [
            asked,
            {"role": "assistant", "content": row(1)[f"response_{side}"]},
        ]
        for side in "ab"
    }
    turns = {column: json.dumps([text]) for column, text in row(1).items()}
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(json.dumps(row(1)).encode()))
    (tmp_path / "list.json").write_text(json.dumps([row(1)]))
    pd.DataFrame([turns]).to_csv(tmp_path / "table.csv", index=False)
    lines(tmp_path / "messages.jsonl", messages)
    (expected,) = humanpref.load().judge_many([row(1)]).tolist()
    for name in ("packed.jsonl.gz", "list.json", "table.csv", "messages.jsonl"):
        assert shard_judge.judge(tmp_path / name).error == ""
        (made,) = written(shard_judge.out / f"{name.partition('.')[0]}.jsonl")
        assert [made[key] for key in ADDED[:3]] == expected


def test_what_would_be_lost_is_refused(shard_judge, tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("prompt,response_a,response_b,note,note\np,a,b,1,2\n")
    assert shard_judge.judge(source).error == f"{source}: column 'note' appears twice"
    source = lines(tmp_path / "b.jsonl", row(1), json.dumps(row(2, x=5)).replace("5", "1e999"))
    assert shard_judge.judge(source).error == f"{source}: row 2: a number is not finite"
    assert sorted(path.name for path in shard_judge.out.rglob("*")) == [DONE, UNFINISHED]


def test_a_shard_that_cannot_be_read_or_has_a_damaged_record_is_named(shard_judge, tmp_path):
    source = lines(tmp_path / "a.jsonl", row(1))
    shard_judge.judge(source)
    record = shard_judge.out / DONE / "a.json"
    record.write_text("{")
    assert shard_judge.judge(source).error.startswith(f"{record}: not valid JSON")
    source.unlink()
    error = f"{source}: cannot be read (No such file or directory)"
    assert shard_judge.judge(source) == Outcome("a.jsonl", 0, False, error)


def test_a_name_that_is_not_utf8_is_kept(shard_judge, tmp_path):
    source = lines(tmp_path / os.fsdecode(b"r\xe9sum\xe9.jsonl"), row(1))
    assert shard_judge.judge(source).error == ""
    assert shard_judge.judge(source).skipped
    assert os.listdir(os.fsencode(shard_judge.out)).count(b"r\xe9sum\xe9.jsonl") == 1


def test_parquet_that_is_compressed_as_a_whole_is_refused(shard_judge, tmp_path):
    pytest.importorskip("pyarrow")
    pd.DataFrame([row(1)]).to_parquet(tmp_path / "a")
    source = tmp_path / "a.parquet.gz"
    source.write_bytes(gzip.compress((tmp_path / "a").read_bytes()))
    assert shard_judge.judge(source).error.startswith(f"{source}: is Parquet, gzip; unpack it")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([row(1), {"prompt": "p", "response_a": "a"}], "row 2: column 'response_b': missing"),
        ([row(1), "{", row(2)], "row 2: not valid JSON"),
        ([row(1), row(2, p_tie=0)], "column 'p_tie' already exists"),
        ([row(1), row(2) | {"response_a": 3}], "row 2 (id '1'): column 'response_a': expected a"),
        ([{"prompt": "p", "chosen": "a", "rejected": "b"}], "expected two answers, A and B, got"),
        ([{"question": "p"}], "expected the columns prompt, response_a, response_b"),
    ],
)
def test_a_bad_shard_is_named_and_nothing_is_written(rows, told, shard_judge, tmp_path):
    source = lines(tmp_path / "part-3.jsonl", *rows)
    outcome = shard_judge.judge(source)
    assert outcome.error.startswith(f"{source}: {told}")
    assert outcome == ("part-3.jsonl", 0, False, outcome.error)
    assert [path.name for path in shard_judge.out.rglob("*")] == [DONE, UNFINISHED]


def test_a_damaged_parquet_shard_is_refused(shard_judge, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    # Damage is found wherever it is: in the footer, in a text, or in a column that is only copied.
    source = tmp_path / "part.parquet"
    frame = pd.DataFrame([row(n, more="more" * n) for n in range(50)])
    frame.to_parquet(source, compression="gzip")
    whole = source.read_bytes()
    source.write_bytes(whole[:-20])
    assert "not a valid Parquet file" in shard_judge.judge(source).error
    columns = parquet.ParquetFile(io.BytesIO(whole)).metadata.row_group(0)
    for column in (0, 3):
        start = columns.column(column).dictionary_page_offset + 20
        source.write_bytes(whole[:start] + b"\xff" * 60 + whole[start + 60 :])
        assert "not a valid Parquet file" in shard_judge.judge(source).error


def test_shards_without_rows_stay_so(shard_judge, tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.jsonl").touch()
    pd.DataFrame([row(1)])[:0].to_parquet(tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert shard_judge.judge(tmp_path / name) == Outcome(name, 0, False, "")
    assert (shard_judge.out / "a.jsonl").read_bytes() == b""
    assert list(pd.read_parquet(shard_judge.out / "b.parquet")) == [*row(1), *ADDED]


def test_a_finished_shard_is_skipped_and_a_damaged_one_is_judged_again(shard_judge, tmp_path):
    source, out = lines(tmp_path / "a.jsonl", row(1), row(2)), shard_judge.out / "a.jsonl"
    shard_judge.judge(source)
    digest, changed = sha256(out), out.stat().st_mtime_ns
    assert shard_judge.judge(source) == Outcome("a.jsonl", 2, True, "")
    assert out.stat().st_mtime_ns == changed
    out.write_bytes(out.read_bytes()[:-10])
    assert shard_judge.judge(source) == Outcome("a.jsonl", 2, False, "")
    assert sha256(out) == digest
    out.unlink()
    assert shard_judge.judge(source) == Outcome("a.jsonl", 2, False, "")
    assert sha256(out) == digest


def test_a_changed_shard_is_refused_until_its_record_is_removed(shard_judge, tmp_path):
    source, out = lines(tmp_path / "a.jsonl", row(1)), shard_judge.out / "a.jsonl"
    shard_judge.judge(source)
    before = out.read_bytes()
    lines(source, row(2))
    assert "has changed since it was judged" in shard_judge.judge(source).error
    assert out.read_bytes() == before
    (shard_judge.out / DONE / "a.json").unlink()
    assert shard_judge.judge(source).error == ""
    assert written(out)[0]["prompt"] == "Why 2?"
    # Of another kind, it does not leave its rows twice.
    pytest.importorskip("pyarrow")
    (shard_judge.out / DONE / "a.json").unlink()
    source.unlink()
    source = tmp_path / "a.parquet"
    pd.DataFrame([row(3)]).to_parquet(source)
    assert shard_judge.judge(source).error == ""
    assert [path.name for path in shard_judge.out.glob("a*")] == ["a.parquet"]


def test_a_shard_that_ends_its_process_each_time_is_not_tried_forever(shard_judge, tmp_path):
    source = lines(tmp_path / "a.jsonl", row(1))
    died = shard_judge.out / UNFINISHED / "a.tries"
    died.write_text("." * TRIES)
    assert f"{TRIES} processes died while judging it" in shard_judge.judge(source).error
    died.write_text("." * (TRIES - 1))
    assert shard_judge.judge(source).error == ""
    assert not any((shard_judge.out / UNFINISHED).iterdir())


def test_it_takes_batches_of_paths(shard_judge, tmp_path):
    paths = [lines(tmp_path / f"{name}.jsonl", row(1)) for name in "ab"]
    shard_judge.judge(paths[0])
    outcomes = shard_judge({"item": np.array(list(map(str, paths)))})
    assert outcomes["shard"].tolist() == ["a.jsonl", "b.jsonl"]
    assert outcomes["skipped"].tolist() == [True, False]
