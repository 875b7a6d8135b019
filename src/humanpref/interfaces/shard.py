"""Judge one shard: a file of pairs in, the same file with probabilities out, and a record of both
that tells whether the shard is finished."""

import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from humanpref.data.formats.detect import text_columns
from humanpref.data.tables import BadRow, open_table
from humanpref.files import read_json, sha256, write_json
from humanpref.interfaces.batch import added_columns, check_free
from humanpref.interfaces.judge import Judge, load
from humanpref.schema import InputError

DONE, UNFINISHED = "_done", "_unfinished"
"""Folders inside that of the output shards: the records, and shards that are being written."""
TRIES = 3
"""How often a shard is started: if it is too large for memory, its process dies each time."""
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
    """Return a shard's file name without the endings that say what kind of file it is.

    Examples
    --------
    >>> stem_of(Path("in/part-0.jsonl.gz"))
    'part-0'
    """
    while path.suffix.lower() in _SUFFIXES:
        path = path.with_suffix("")
    return path.name


class ShardJudge:
    """A callable that judges shards, one file at a time. It loads the model when it first needs it.

    Parameters
    ----------
    model : path, optional
        An artifact's folder; by default, the packaged judge.
    out : path
        The folder of the output shards, prepared by `judge_shards`.
    format : str, optional
        The format of the shards. By default, that of each is detected.
    """

    def __init__(
        self, model: str | Path | None, out: str | Path, format: str | None = None
    ) -> None:
        self.model, self.out, self.format = model, Path(out), format
        self._judge: Judge | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Judge the shards whose paths are in column `item`, and return a column for each part of
        an `Outcome`, as Ray Data expects."""
        outcomes = [self.judge(Path(path)) for path in batch["item"].tolist()]
        columns = zip(*outcomes, strict=True)
        return dict(zip(Outcome._fields, map(np.array, columns), strict=True))

    def judge(self, source: Path) -> Outcome:
        """Judge one shard, unless it is already finished. If the shard cannot be judged, the reason
        is the outcome's `error`."""
        record_file = self.out / DONE / f"{stem_of(source)}.json"
        digest = sha256(source)
        if record_file.exists():
            record = read_json(record_file)
            if record["input"] != digest:
                reason = f"{source}: has changed since it was judged; name a new folder, or remove "
                return Outcome(source.name, 0, False, f"{reason}{record_file} to judge it again")
            written = self.out / record["output"]
            if written.is_file() and sha256(written) == record["output_sha256"]:
                return Outcome(source.name, record["rows"], True, "")
            logger.warning("%s: is damaged or missing; judging %s again", written, source)
        tries = self.out / UNFINISHED / f"{stem_of(source)}.tries"
        if tries.is_file() and tries.stat().st_size >= TRIES:
            reason = f"{source}: {TRIES} processes died while judging it; is it too large?"
            return Outcome(source.name, 0, False, reason)
        with open(tries, "a") as file:
            file.write(".")
        try:
            if self._judge is None:
                self._judge = load(self.model)
            rows = self._write(source, record_file, digest)
        except InputError as error:
            return Outcome(source.name, 0, False, str(error))
        finally:
            tries.unlink(missing_ok=True)
        return Outcome(source.name, rows, False, "")

    def _write(self, source: Path, record_file: Path, digest: str) -> int:
        """Judge a shard, write its output atomically, and return the number of rows."""
        is_parquet, columns, rows = _read(source, self.format)
        try:
            check_free(columns)
            added = added_columns(self._judge.judge_many(rows, self.format))
        except InputError as error:
            raise InputError(str(error).replace("these rows", str(source), 1)) from None
        temporary = self.out / UNFINISHED / uuid.uuid4().hex
        if is_parquet:
            _write_parquet(source, temporary, added)
        else:
            _write_lines(rows, temporary, added)
        name = stem_of(source) + (".parquet" if is_parquet else ".jsonl")
        record = {"input": digest, "output": name, "output_sha256": sha256(temporary)}
        # The record comes first, so that every output has one. Without its output, it is ignored.
        write_json(record_file, record | {"rows": len(rows)})
        os.replace(temporary, self.out / name)
        return len(rows)


def _read(source: Path, format: str | None) -> tuple[bool, list[str], list[Any]]:
    """Return whether a shard is Parquet, its columns, and its rows as dicts, or `BadRow` for those
    that cannot be read. For Parquet, the dicts have only the texts."""
    if not source.stat().st_size:
        return False, [], []
    with open_table(source) as table:
        is_parquet = table.kind.startswith("Parquet")
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


def _write_lines(rows: list[dict[str, Any]], path: Path, added: dict[str, np.ndarray]) -> None:
    numbers = np.stack([*added.values()], axis=1).tolist()
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for row, own in zip(rows, numbers, strict=True):
            line = row | dict(zip(added, own, strict=True))
            # JSON can escape lone surrogates, which UTF-8 cannot encode.
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


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
