"""Files, folders and objects as tables: what they are is told by their content, and what cannot be
read is said in one line."""

import bz2
import gzip
import io
import json
import lzma
import os
import threading
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from humanpref.data.tables import BadRow, open_table, source_name
from humanpref.schema import InputError

CSV = "id,prompt\n1,é\n2,b\n"


def read(source, *columns):
    with open_table(source) as table:
        return table.kind, table.columns, [*table.read([*columns] or table.columns)]


@pytest.fixture
def file(tmp_path):
    def write(content, name="rows"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


def zipped(**files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (CSV.encode(), "CSV"),
        (CSV.encode("utf-8-sig"), "CSV"),
        (CSV.encode("utf-16"), "CSV, UTF-16"),
        (b"\xfe\xff" + CSV.encode("utf-16-be"), "CSV, UTF-16"),
        (CSV.encode("utf-32"), "CSV, UTF-32"),
        (b"\r\n" + CSV.replace(",", ";").encode(), "CSV with semicolons"),
        (CSV.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"), "CSV with tabs, UTF-16"),
        (gzip.compress(CSV.encode()), "CSV, gzip"),
        (bz2.compress(CSV.encode()), "CSV, bzip2"),
        (lzma.compress(CSV.encode("utf-16")), "CSV, UTF-16, xz"),
        (zipped(rows=CSV), "CSV, zip"),
    ],
)
def test_kinds_of_csv(file, content, kind):
    expected = [("1", "é"), ("2", "b")]
    assert read(file(content, "rows.parquet")) == (kind, ["id", "prompt"], expected)
    assert read(file(content), "prompt", "id")[2] == [row[::-1] for row in expected]
    assert read(file(content), "prompt")[2] == [["é"], ["b"]]


ROWS = [{"id": 2**60 + 1, "prompt": ["é", None]}, {"id": "7", "prompt": "NA"}]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("\n".join(map(json.dumps, ROWS)), "JSON lines"),
        ("\ufeff\n" + "\n\n".join(map(json.dumps, ROWS)) + "\n", "JSON lines"),
        (json.dumps(ROWS), "JSON"),
        (" \n" + json.dumps(ROWS, indent=2), "JSON"),
        (
            gzip.compress(json.dumps(ROWS, ensure_ascii=False).encode("utf-16")),
            "JSON, UTF-16, gzip",
        ),
    ],
)
def test_kinds_of_json(file, content, kind):
    expected = [[2**60 + 1, ["é", None]], ["7", "NA"]]
    assert read(file(content, "rows.csv")) == (kind, ["id", "prompt"], expected)


def test_one_object_on_several_lines(file):
    assert read(file(json.dumps({"a": 1, "b": 2}, indent=1)))[1:] == (["a", "b"], [[1, 2]])


def test_parquet(file, tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"id": [2**60 + 1, 3], "turns": [["a", None], []], "other": [None, "NA"]})
    content = frame.to_parquet(index=False)
    expected = [(2**60 + 1, ["a", None]), (3, [])]
    path = file(content, "rows.csv")
    assert read(path, "id", "turns") == ("Parquet", ["id", "turns", "other"], expected)
    assert read(file(gzip.compress(content)), "id", "turns")[::2] == ("Parquet, gzip", expected)
    assert read(path, "other")[2] == [(None,), ("NA",)]
    for damaged in (content[:-20], content[:50]):
        with pytest.raises(InputError, match="rows: not a valid Parquet file"):
            read(file(damaged))


def test_parquet_without_pyarrow(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"rows: Parquet needs pyarrow: pip install .*parquet"):
        read(file(b"PAR1"))


def test_rows_that_have_no_cells_are_told_apart(file):
    _, _, rows = read(file("id,prompt\n1\n\n2,b,c\n3,d\n"))
    assert rows == [
        "expected 2 fields as in the header, got 1",
        "expected 2 fields as in the header, got 3",
        ("3", "d"),
    ]
    assert [isinstance(row, BadRow) for row in rows] == [True, True, False]
    _, columns, rows = read(
        file('{"a": 1}\n{"b": 2, "a": 3}\n[1]\n{oops\n{"b": 2, "a": 3, "b": 4}')
    )
    assert columns == ["a", "b"]
    assert rows[1] == [3, 2]
    assert rows[0] == "column 'b': missing, but other rows have it"
    assert rows[2] == "expected an object with keys, got '[1]'"
    assert rows[3].startswith("not valid JSON (")
    assert rows[4] == "not valid JSON (key 'b' appears twice)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"id\xff,", r"expected a CSV, got a file that is not UTF-8 text \(byte 2\)"),
        ("id".encode("utf-16-le"), "got binary data .UTF-16 needs a byte-order mark"),
        (b'id\n"1', r"not a valid CSV .* is a quote not closed"),
        (b"[1, 2]", "expected objects with keys, got '1'"),
        (b"[{]", "not valid JSON"),
        (b'[{"a": {"b": 1, "b": 2}}]', "not valid JSON .key 'b' appears twice"),
        (b"{\n", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (gzip.compress(CSV.encode() * 9)[:-12], "cannot be read .*truncated"),
        (gzip.compress(CSV.encode())[:14] + b"x" * 40, "cannot be read"),
        (lzma.compress(CSV.encode())[:40], "cannot be read .*truncated"),
        (bz2.compress(CSV.encode())[:30], "cannot be read .*truncated"),
        (zipped(rows=CSV)[:60], "cannot be read .*truncated"),
        (zipped(a=CSV, b=CSV), "expected an archive of one file, got 2: 'a', 'b'"),
        (zipped(), "not a|binary data"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(file, content, message):
    with pytest.raises(InputError, match=message) as caught:
        read(file(content))
    assert str(caught.value).startswith(str(file(content)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_shards(file, tmp_path):
    file("b,a\n1,x\n", "part-2.csv")
    file("a,b\ny,2\nz,3\n", "part-10.csv")
    file("", "part-11.csv")
    file("{}", ".hidden")
    with open_table(tmp_path) as table:
        assert (table.kind, table.columns) == ("CSV, 2 files", ["b", "a"])
        assert [*table.read(["a", "b"])] == [("x", "1"), ("y", "2"), ("z", "3")]
        assert table.place_of(1) == (str(tmp_path / "part-2.csv"), 1)
        assert table.place_of(3) == (str(tmp_path / "part-10.csv"), 2)
    for name in ("part-02.csv", "part-002.csv"):
        file("a,b\nw,4\n", name)
    with open_table(tmp_path) as table:
        list(table.read(["a"]))
        assert [Path(name).name for _, name in table.starts] == [
            *("part-002.csv", "part-02.csv", "part-2.csv", "part-10.csv")
        ]
    file("a,c\n", "part-12.csv")
    with pytest.raises(InputError, match=r"part-12\.csv: expected the columns of part-002\.csv"):
        read(tmp_path)
    file("a,c\n", "test-12.csv")
    with pytest.raises(InputError, match=r"expected shards.*'part-\d+\.csv', 'test-12\.csv'"):
        read(tmp_path)


def test_a_folder_without_rows(tmp_path, file):
    file("", "part-1")
    with pytest.raises(InputError, match=r"cannot be read \(a folder without files"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: cannot be read \(No such file"):
        read(tmp_path / "nowhere")


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[CSV.encode() * 9_000])
    writer.start()
    assert len(read(tmp_path / "pipe")[2]) == 3 * 9_000 - 1
    writer.join()


def test_objects():
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index([7, 8], name="id"))
    assert read(frame) == ("a frame", ["id", "a"], [(7, 1), (8, 2)])
    assert read(iter([{"a": 1}, {"a": None}])) == ("dicts", ["a"], [[1], [None]])

    class Split(list):
        column_names = ("a",)

    class Splits(dict):
        column_names = {"train": ["a"], "test": ["a"]}  # noqa: RUF012

    assert read(Split([{"a": 1}]))[0] == "a dataset"
    for source, message in (
        (Splits(), "expected one split of the dataset, got 'train', 'test'"),
        ({"a": [1]}, "expected a path, a DataFrame, a sequence of dicts or a Dataset, got dict"),
        (7, "got int"),
        ([7], "expected objects with keys, got '7'"),
    ):
        with pytest.raises(InputError, match=f"these rows: .*{message}"):
            read(source)
    assert (source_name("a.csv"), source_name(frame)) == ("a.csv", "these rows")
