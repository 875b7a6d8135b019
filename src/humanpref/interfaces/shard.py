"""Judge a file of pairs, and write its rows with probabilities. For a shard, also write a record,
which shows that the shard is finished."""

import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from humanpref.data.formats.detect import text_columns
from humanpref.data.tables import BadRow, open_table
from humanpref.files import (
    is_main_process,
    read_json,
    sha256,
    temporary_folder,
    write_json,
    write_whole,
)
from humanpref.interfaces.batch import added_columns, check_free
from humanpref.interfaces.judge import Judge, load
from humanpref.schema import InputError

DONE, UNFINISHED = "_done", "_unfinished"
"""Subfolders of the output folder: one for records of finished shards, one for unfinished ones."""
OUTPUTS = ".parquet", ".jsonl"
"""The extensions of output shards: the first for Parquet shards, the second for all others."""
TRIES = 3
"""Maximum number of attempts at a shard. If a shard is too large for memory, every process that
judges it dies, so it must not be tried again and again."""
_SUFFIXES = frozenset(
    (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".gz", ".bz2", ".xz", ".zip")
)

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """The result for one input shard: its file name, its number of rows, whether it was already
    finished, and, if it could not be judged, the error message."""

    shard: str
    rows: int
    skipped: bool
    error: str


def stem_of(path: Path) -> str:
    """Return a shard's file name without the extensions that indicate its type.

    Examples
    --------
    >>> stem_of(Path("in/part-0.jsonl.gz"))
    'part-0'
    """
    while path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    return path.name


class ShardJudge:
    """A callable that judges shards, one file at a time. The model is loaded when first needed.

    Parameters
    ----------
    model : path, optional
        An artifact's folder; by default, the packaged judge.
    out : path
        The folder of the output shards, prepared by `judge_shards`.
    format : str, optional
        The format of the shards. By default, the format of each shard is detected.
    """

    def __init__(
        self, model: str | Path | None, out: str | Path, format: str | None = None
    ) -> None:
        self.model, self.out, self.format = model, Path(out), format
        self._judge: Judge | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Judge the shards whose paths are in column `item`, and return a column for each field of
        `Outcome`, as Ray Data expects."""
        outcomes = [self.judge(Path(path)) for path in batch["item"].tolist()]
        columns = zip(*outcomes, strict=True)
        return dict(zip(Outcome._fields, map(np.array, columns), strict=True))

    def judge(self, source: Path) -> Outcome:
        """Judge one shard, unless it is already finished. If the shard cannot be judged, the reason
        is the outcome's `error`."""
        try:
            return self._judged(source)
        except InputError as error:
            return Outcome(source.name, 0, False, str(error))

    def _judged(self, source: Path) -> Outcome:
        record_file = self.out / DONE / f"{stem_of(source)}.json"
        try:
            digest = sha256(source)
        except OSError as error:
            raise InputError(f"{source}: cannot be read ({error.strerror})") from None
        if record_file.exists():
            record = read_json(record_file)
            if record["input"] != digest:
                raise InputError(
                    f"{source}: has changed since it was judged; name a new folder, or remove "
                    f"{record_file} to judge it again"
                )
            written = self.out / record["output"]
            if written.is_file() and sha256(written) == record["output_sha256"]:
                return Outcome(source.name, record["rows"], True, "")
            logger.warning("%s: is damaged or missing; judging %s again", written, source)
        tries = self.out / UNFINISHED / f"{stem_of(source)}.tries"
        if tries.is_file() and tries.stat().st_size >= TRIES:
            raise InputError(f"{source}: {TRIES} processes died while judging it; is it too large?")
        with open(tries, "a") as file:
            file.write(".")
        try:
            if self._judge is None:
                self._judge = load(self.model)
            rows = self._write(source, record_file, digest)
        finally:
            tries.unlink(missing_ok=True)
        return Outcome(source.name, rows, False, "")

    def _write(self, source: Path, record_file: Path, digest: str) -> int:
        """Judge a shard, write its output atomically, and return the number of rows."""
        is_parquet, columns, rows = _read(source, self.format)
        added = _added(self._judge, source, columns, rows, self.format)
        temporary = self.out / UNFINISHED / uuid.uuid4().hex
        try:
            if is_parquet:
                _write_parquet(source, temporary, added)
            else:
                with open(temporary, "w", encoding="utf-8", newline="") as file:
                    _write_lines(source, rows, file, added)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        name, other = (stem_of(source) + suffix for suffix in OUTPUTS[:: 1 if is_parquet else -1])
        record = {"input": digest, "output": name, "output_sha256": sha256(temporary)}
        # Write the record first, so that every output has a record. A record without an output is
        # ignored.
        write_json(record_file, record | {"rows": len(rows)})
        # An earlier run may have written the other type; readers must not find both outputs.
        (self.out / other).unlink(missing_ok=True)
        os.replace(temporary, self.out / name)
        return len(rows)


def judge_file(judge: Judge, source: Path, out: Path, format: str | None = None) -> int:
    """Judge one file of pairs in any format, and atomically write its rows with the added columns.
    A Parquet file is written as Parquet, any other as JSON lines. Return the number of rows. The
    whole file is in memory at once.

    Raises
    ------
    InputError
        If the file cannot be read or judged, or if the name of `out` does not fit its content.
    """
    is_parquet, columns, rows = _read(source, format)
    if is_parquet != (out.suffix.lower() == OUTPUTS[0]):
        ending, kind = ("ends", "Parquet") if is_parquet else ("does not end", "not Parquet")
        raise InputError(
            f"{out}: expected a name that {ending} in {OUTPUTS[0]}, since {source} is {kind}"
        )
    added = _added(judge, source, columns, rows, format)
    if not is_main_process():
        return len(rows)
    if is_parquet:
        with temporary_folder(out) as folder:
            _write_parquet(source, folder / out.name, added)
            os.replace(folder / out.name, out)
    else:
        with write_whole(out) as file:
            _write_lines(source, rows, file, added)
    return len(rows)


def _added(
    judge: Judge, source: Path, columns: list[str], rows: list[Any], format: str | None
) -> dict[str, np.ndarray]:
    """Return the columns to add to a file, given its columns and rows from `_read`."""
    try:
        check_free(columns)
        return added_columns(judge.judge_many(rows, format))
    except InputError as error:
        raise InputError(str(error).replace("these rows", str(source), 1)) from None


def _read(source: Path, format: str | None) -> tuple[bool, list[str], list[Any]]:
    """Return whether a shard is Parquet, its columns, and its rows: a dict for each row, or a
    `BadRow` if it cannot be read. For Parquet, the dicts have only the texts."""
    if not source.stat().st_size:
        return False, [], []
    with open_table(source) as table:
        is_parquet = table.kind.startswith("Parquet")
        if is_parquet and "," in table.kind:
            raise InputError(f"{source}: is {table.kind}; unpack it (Parquet is itself compressed)")
        if len({*table.columns}) < len(table.columns):
            repeated = next(name for name in table.columns if table.columns.count(name) > 1)
            raise InputError(f"{source}: column {repeated!r} appears twice")
        if table.objects is not None:
            return False, table.columns, table.objects
        columns = (
            list(text_columns(table.columns, table.name, format)) if is_parquet else table.columns
        )
        rows = [
            cells if isinstance(cells, BadRow) else dict(zip(columns, cells, strict=True))
            for cells in table.read(columns)
        ]
        return is_parquet, table.columns, rows


def _write_lines(
    source: Path, rows: list[dict[str, Any]], file: TextIO, added: dict[str, np.ndarray]
) -> None:
    values = np.stack([*added.values()], axis=1).tolist()
    for number, (row, own) in enumerate(zip(rows, values, strict=True), start=1):
        line = row | dict(zip(added, own, strict=True))
        try:
            text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise InputError(f"{source}: row {number}: a number is not finite") from None
        # JSON can escape lone surrogates, which UTF-8 cannot encode.
        file.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")


def _write_parquet(source: Path, path: Path, added: dict[str, np.ndarray]) -> None:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(source).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{source}: not a valid Parquet file ({str(error).splitlines()[0]})"
        ) from None
    for name, values in added.items():
        table = table.append_column(name, pyarrow.array(values))
    pyarrow.parquet.write_table(table, path)
