"""Open files, folders and objects as tables of raw cells. The first bytes of a file, not its name,
decide what kind of file it is."""

import bz2
import codecs
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from humanpref.data.cells import names, short
from humanpref.data.csv_rows import DELIMITERS, csv_errors, decoded, delimited_rows, first_line
from humanpref.extras import install_line
from humanpref.files import unique
from humanpref.schema import ID, InputError, refuse_failures

_HEAD = 1 << 16
_BATCH = 1_024
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"\xfd7zXZ\x00": ("xz", lzma.open),
    b"BZh": ("bzip2", bz2.open),
}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile)


class BadRow(str):
    """The reason why a row has no cells. It replaces the cells, so that the caller can count the
    row, and report it or stop."""

    __slots__ = ()


Cells = Sequence[Any] | BadRow


@dataclass
class Table:
    """A table whose rows can be read once, in order."""

    name: str
    """The path, or `these rows`, for messages."""
    kind: str
    """The kind of file or object, for messages."""
    columns: list[str]
    read: Callable[[list[str]], Iterator[Cells]]
    """Yields the cells of the given columns, row by row."""
    starts: list[tuple[int, str]] = field(default_factory=list)
    """If the table is a folder: for each file opened so far, the number of rows before that file,
    and its name."""
    objects: list[Any] | None = None
    """The rows of a JSON file or of a sequence of dicts, with all their keys. A row that is not a
    mapping cannot be used. None for any other kind of source."""

    def place_of(self, number: int) -> tuple[str, int]:
        """Given a row's number in the table, return the name of its file and its number in that
        file. Both numbers count from 1. The row must already have been read."""
        found = (0, self.name)
        for start in self.starts:
            found = start if start[0] < number else found
        return found[1], number - found[0]


def source_name(source: Any) -> str:
    """Return a path as a string, and `these rows` for an object."""
    return str(source) if isinstance(source, str | os.PathLike) else "these rows"


@contextlib.contextmanager
def open_table(source: Any) -> Iterator[Table]:
    """Open a file, a folder of shards or an object as a table.

    Parameters
    ----------
    source : path or object
        A CSV (UTF-8, UTF-16 or UTF-32; with commas, semicolons or tabs), a Parquet file, a list of
        JSON objects or JSON lines; any of them compressed by gzip, bzip2, xz or zip; a folder of
        such files with the same columns; a DataFrame, a sequence of dicts, or a `datasets.Dataset`.

    Raises
    ------
    InputError
        If the source cannot be read. Reading the rows raises it as well.
    """
    if not isinstance(source, str | os.PathLike):
        yield _object_table(source)
    elif Path(source).is_dir():
        yield _folder_table(Path(source))
    else:
        name = str(source)
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(open(source, "rb", buffering=_HEAD))
                packed, file = _unpacked(name, file, stack)
                head = file.peek(_HEAD)
            except (*_DAMAGED, OSError, RuntimeError) as error:  # RuntimeError: zip password
                raise InputError(f"{name}: cannot be read ({_reason(error)})") from None
            yield _file_table(name, packed, file, head)


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return reason if isinstance(error, OSError | RuntimeError) else f"{reason}; is it truncated?"


def _unpacked(
    name: str, file: io.BufferedReader, stack: contextlib.ExitStack
) -> tuple[str, io.BufferedReader]:
    """Return the compression of a file, or an empty string, and its decompressed bytes."""
    head = file.peek(6)
    for mark, (kind, opener) in _COMPRESSIONS.items():
        if head.startswith(mark):
            return kind, io.BufferedReader(stack.enter_context(opener(file)), _HEAD)
    if not head.startswith(b"PK\x03\x04"):
        return "", file
    archive = stack.enter_context(zipfile.ZipFile(file))
    members = [
        member
        for member in archive.namelist()
        if not member.endswith("/") and not member.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise InputError(
            f"{name}: expected an archive of one file, got {len(members)}: "
            f"{names(members[:5])}; unpack it and name one"
        )
    return "zip", io.BufferedReader(stack.enter_context(archive.open(members[0])), _HEAD)


def _file_table(name: str, packed: str, file: io.BufferedReader, head: bytes) -> Table:
    """Return the table of an open file, whose first bytes are `head`."""
    encoding = next((own for mark, own in _ENCODINGS.items() if head.startswith(mark)), None)
    how = [encoding.upper()] if encoding not in (None, "utf-8-sig") else []
    how += [packed] if packed else []
    if head.startswith(b"PAR1"):
        return _parquet_table(name, ", ".join(["Parquet", *how]), file)
    if encoding is None and b"\0" in head[:64]:
        raise InputError(
            f"{name}: expected text or Parquet, got binary data (UTF-16 needs a byte-order mark)"
        )
    text = decoded(file, encoding or "utf-8-sig")
    start = head.decode(encoding or "utf-8-sig", errors="ignore").lstrip()[:1]
    with _text_errors(name):
        if start in ("[", "{"):
            kind, objects = _json_objects(name, text, lines=start == "{")
            return _mapping_table(name, ", ".join([kind, *how]), objects)
        delimiter, rows = delimited_rows(text)
        header = next(rows, [])
    if not header:
        raise InputError(f"{name}: the file is empty, expected a header")

    def read(columns: list[str]) -> Iterator[Cells]:
        places = [header.index(column) for column in columns]
        pick = itemgetter(*places) if len(places) > 1 else lambda row: [row[places[0]]]
        width = len(header)
        with _text_errors(name):
            for row in rows:
                if len(row) == width:
                    yield pick(row)
                else:
                    yield BadRow(f"expected {width} fields as in the header, got {len(row)}")

    kind = ", ".join([DELIMITERS[delimiter], *how])
    return Table(name, kind, header, read)


@contextlib.contextmanager
def _text_errors(name: str) -> Iterator[None]:
    with csv_errors(name):
        try:
            yield
        except _DAMAGED as error:
            raise InputError(f"{name}: cannot be read ({_reason(error)})") from None


def _json_objects(name: str, text: Iterator[str], lines: bool) -> tuple[str, list[Any]]:
    """Return the kind of a JSON file, and its objects. An object that cannot be read is a
    `BadRow`."""
    first = first_line(text) if lines else ""
    head = _json_line(first)
    if not isinstance(head, BadRow):
        return "JSON lines", [head, *map(_json_line, filter(str.strip, text))]
    try:
        content = _parsed(first + text.read())
    except ValueError as error:
        raise InputError(f"{name}: not valid JSON ({error})") from None
    return "JSON", content if isinstance(content, list) else [content]


def _json_line(line: str) -> Any:
    try:
        return _parsed(line)
    except ValueError as error:
        return BadRow(f"not valid JSON ({error})")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _parquet_table(name: str, kind: str, file: BinaryIO) -> Table:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(f"{name}: Parquet needs pyarrow: {install_line('parquet')}") from None

    refused = partial(refuse_failures, f"{name}: not a valid Parquet file")
    with refused():
        opened = pyarrow.parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))

    def read(columns: list[str]) -> Iterator[Cells]:
        with refused():
            for batch in opened.iter_batches(_BATCH, columns=columns):
                cells = (batch.column(column).to_pylist() for column in columns)
                yield from zip(*cells, strict=True)

    return Table(name, kind, list(opened.schema_arrow.names), read)


def _mapping_table(name: str, kind: str, objects: Iterable[Any]) -> Table:
    """Return the table of JSON objects or dicts. Its columns are all keys, in order."""
    objects = list(objects)
    columns: dict[str, None] = {}
    for each in objects:
        if isinstance(each, Mapping):
            columns.update(dict.fromkeys(each))
    if objects and not columns:
        raise InputError(f"{name}: expected objects with keys, got {short(str(objects[0]))}")

    def read(columns: list[str]) -> Iterator[Cells]:
        for each in objects:
            if isinstance(each, Mapping):
                try:
                    yield [each[column] for column in columns]
                except KeyError as error:
                    yield BadRow(f"column {error}: missing, but other rows have it")
            elif isinstance(each, BadRow):
                yield each
            else:
                yield BadRow(f"expected an object with keys, got {short(str(each))}")

    return Table(name, kind, list(columns), read, objects=objects)


def _folder_table(folder: Path) -> Table:
    """Return the table of a folder's files, whose names differ only in numbers, in numeric
    order."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.name[0] not in "._"]
    files = [path for path in paths if path.stat().st_size]
    if not files:
        raise InputError(f"{folder}: cannot be read (a folder without files)")
    kinds = {re.sub(r"\d+", "0", path.name): path.name for path in sorted(files)}
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: expected shards, whose names differ only in numbers, got "
            f"{names([*kinds.values()][:3])}; name one file"
        )
    # If the numbers are equal, as in `part-1` and `part-01`, the names decide.
    files.sort(key=lambda path: ([int(part) for part in re.findall(r"\d+", path.name)], path.name))
    with open_table(files[0]) as first:
        kind = first.kind + (f", {len(files)} files" if len(files) > 1 else "")

    def read(columns: list[str]) -> Iterator[Cells]:
        count = 0
        for path in files:
            with open_table(path) as shard:
                if set(shard.columns) != set(whole.columns):
                    raise InputError(
                        f"{path}: expected the columns of {files[0].name}, "
                        f"{names(whole.columns)}; got {names(shard.columns)}"
                    )
                whole.starts.append((count, shard.name))
                for cells in shard.read(columns):
                    count += 1
                    yield cells

    whole = Table(str(folder), kind, first.columns, read)
    return whole


def _object_table(source: Any) -> Table:
    name = source_name(source)
    if isinstance(source, pd.DataFrame):
        frame = source
        if frame.index.name == ID and ID not in frame:
            frame = frame.reset_index()

        def read(columns: list[str]) -> Iterator[Cells]:
            return zip(*(frame[column].tolist() for column in columns), strict=True)

        return Table(name, "a frame", list(map(str, frame.columns)), read)
    if isinstance(getattr(source, "column_names", None), Mapping):
        raise InputError(
            f"these rows: expected one split of the dataset, got {names(source.column_names)}; "
            "choose one, such as dataset['train']"
        )
    if isinstance(source, Iterable) and not isinstance(source, Mapping | str | bytes):
        kind = "a dataset" if hasattr(source, "column_names") else "dicts"
        return _mapping_table(name, kind, source)
    raise InputError(
        "these rows: expected a path, a DataFrame, a sequence of dicts or a Dataset, got "
        f"{type(source).__name__}"
    )
