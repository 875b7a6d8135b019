"""Parse the rows of a table: check each, and keep or raise its faults."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from humanpref.data.cells import REPLACEMENT, id_text, is_missing
from humanpref.data.formats.forms import is_list
from humanpref.data.formats.labels import OneHot, Winner, weight
from humanpref.data.formats.row import CellError, Format, Row
from humanpref.data.tables import BadRow, Cells, Table
from humanpref.schema import LABEL_COLUMNS, LONE_SURROGATE, WEIGHT, InputError

logger = logging.getLogger(__name__)

QUESTION_ID = "question_id"
"""The column of ids in arena-human-preference-100k."""
EQUAL = "equal"
REMARKS = ("null", "surrogate")
"""Kinds of faults that parsing repairs."""
_HALF = "a lone surrogate (half a character)"


class Fault(NamedTuple):
    """A fault in one row of a file."""

    row: int
    """Row number, counted from 1, excluding the header."""
    id: str
    kind: str
    """`fields`, `id`, `label` or `weight` if the row cannot be used; `equal` if it is left out
    because `chosen` equals `rejected`; `text` if a malformed text is taken as one turn; `null` or
    `surrogate` if a text or a model's name is repaired. The `eda` command adds more kinds."""
    fault: str

    def at(self, path: object) -> str:
        """Return the fault as one line that names the file and the row."""
        return f"{path}: row {self.row}{f' (id {self.id!r})' if self.id else ''}: {self.fault}"


@dataclass
class Plan:
    """The columns to read from a table, one field for each kind of content."""

    texts: tuple[str, ...]
    id: tuple[str, ...]
    """The column of the ids. If empty, rows are numbered from 0."""
    labels: OneHot | Winner | None
    draws: bool
    """Whether labels are read from the text columns: one text is `chosen`, the other `rejected`."""
    models: tuple[str, ...]
    weight: tuple[str, ...]
    format: Format | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns to read, in the order in which a row is parsed."""
        winners = self.labels.columns if self.labels else ()
        return (*self.texts, *self.id, *winners, *self.models, *self.weight)

    @property
    def winners(self) -> tuple[str, ...]:
        """The label columns of the pairs frame."""
        if self.labels is None and not self.draws:
            return ()
        return LABEL_COLUMNS[: 3 if self.labels and self.labels.ties else 2]


class _RefusedError(Exception):
    """Raised while a row is parsed, for a fault that makes the row unusable."""

    def __init__(self, kind: str, reason: str, key: str = "", column: str = "") -> None:
        super().__init__(f"column {column!r}: {reason}" if column else reason)
        self.kind, self.key = kind, key


@contextlib.contextmanager
def _refused(kind: str, key: str = "", column: str = "") -> Iterator[None]:
    """Convert a ValueError raised in the block to a `_RefusedError`."""
    try:
        yield
    except ValueError as error:
        raise _RefusedError(kind, str(error), key, getattr(error, "column", column)) from None


@dataclass
class RowParser:
    """The parser of a table's rows."""

    table: Table
    plan: Plan
    lenient: bool
    """Whether to take a malformed text as one turn instead of refusing its row. Unless faults are
    kept, this also allows repeated ids."""
    keep_faults: bool
    """Whether to collect all faults in `faults`. If False, some are repaired without a warning, and
    the others are raised or logged."""
    faults: list[Fault] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """The parts of rows that a pairs frame cannot hold, each with the number of rows that have
    it."""
    equal: int = 0
    """Number of rows that were left out because `chosen` equals `rejected`."""
    first_rows: dict[str, int] = field(default_factory=dict)
    """The row in which each id was first seen."""
    repeated: str = ""
    """A repeated `question_id`, with its rows. Several rows may answer the same question (as in
    MT-bench), so rows are then numbered."""

    def parse(self, number: int, cells: Cells) -> list[Any] | None:
        """Return a row's id, texts, models, labels and weight, or None if the row is left out.

        Raises
        ------
        InputError
            If the row cannot be used and faults are not kept.
        """
        try:
            return self._parsed(number, cells)
        except _RefusedError as refused:
            fault = Fault(number, refused.key, refused.kind, str(refused))
            self.equal += fault.kind == EQUAL
            if self.keep_faults:
                self.faults.append(fault)
            elif fault.kind != EQUAL:
                raise InputError(self.at(fault)) from None
            return None

    def at(self, fault: Fault) -> str:
        """Return a fault as one line that names the file and the row in that file."""
        name, number = self.table.place_of(fault.row)
        return fault._replace(row=number).at(name)

    def _parsed(self, number: int, cells: Cells) -> list[Any]:
        if isinstance(cells, BadRow):
            raise _RefusedError("fields", cells)
        plan, start = self.plan, len(self.plan.texts)
        key = self._key(number, cells[start]) if plan.id else str(number - 1)
        values: list[Any] = [key]
        winners: list[float] = []
        if plan.format:
            row = self._texts(number, key, cells[:start])
            values += row[:3]
            winners = [1.0 - row.label, float(row.label)] if plan.draws else []
        start += len(plan.id)
        if plan.labels:
            end = start + len(plan.labels.columns)
            with _refused("label", key):
                winners, lost = plan.labels.read(cells[start:end])
            if lost:
                self.lost[lost] += 1
            start = end
        end = start + len(plan.models)
        values += map(_model_name, cells[start:end])
        values += winners
        if plan.weight:
            with _refused(WEIGHT, key, WEIGHT):
                values.append(weight(cells[end]))
        if self.keep_faults:
            self._remark(number, key, dict(zip(plan.columns, cells, strict=True)))
        return values

    def _key(self, number: int, cell: Any) -> str:
        with _refused("id", column=self.plan.id[0]):
            key = id_text(cell)
        first = self.first_rows.setdefault(key, number)
        if first != number:
            reason = f"duplicate id, first seen in row {first}"
            if self.plan.texts and self.plan.id == (QUESTION_ID,):
                self.repeated = self.repeated or f"row {number} repeats {key!r} of row {first}"
                return key
            if not self.lenient or self.keep_faults:
                raise _RefusedError("id", reason, key)
            logger.warning("%s", self.at(Fault(number, key, "id", reason)))
        return key

    def _texts(self, number: int, key: str, cells: Sequence[Any]) -> Row:
        format = self.plan.format
        try:
            row = format.read(cells)
        except CellError as error:
            if not self.lenient:
                reason = f"{error} (format {format.name}: {format.description})"
                raise _RefusedError("text", reason, key, error.column) from None
            row, errors = format.salvaged(cells)
            for each in errors:
                fault = Fault(number, key, "text", f"column {each.column!r}: {each}")
                if self.keep_faults:
                    self.faults.append(fault)
                else:
                    logger.warning("%s; using the cell as plain text", self.at(fault))
        if self.plan.draws and row.response_a == row.response_b:
            raise _RefusedError(EQUAL, "chosen equals rejected", key)
        if row.lost:
            self.lost[row.lost] += 1
        return row

    def _remark(self, number: int, key: str, cells: dict[str, Any]) -> None:
        """Add to `faults` the faults of a row that parsing repairs without a warning."""
        for column in (*self.plan.texts, *self.plan.models):
            is_model = column in self.plan.models
            is_json = not is_model and self.plan.format.form.is_json
            for kind, text in _remarks(cells[column], is_json, is_model):
                self.faults.append(Fault(number, key, kind, f"column {column!r}: {text}"))


def _model_name(cell: Any) -> str:
    if not isinstance(cell, str):
        return "" if is_missing(cell) else str(cell)
    return LONE_SURROGATE.sub(REPLACEMENT, cell)


def _remarks(cell: Any, is_json: bool, is_model: bool) -> Iterator[tuple[str, str]]:
    """Yield the kind and the description of each fault that parsing this cell repairs."""
    if isinstance(cell, str) and is_json:
        with contextlib.suppress(ValueError, RecursionError):
            cell = json.loads(cell or "null")
    if is_missing(cell):
        if not is_model:
            yield "null", "null or empty, not a list of turns"
        return
    items = cell if is_list(cell) else [cell]
    turns = [item.get("content") if isinstance(item, dict) else item for item in items]
    missing = [str(number) for number, turn in enumerate(turns, start=1) if turn is None]
    if missing:
        yield "null", f"turn {', '.join(missing)} is null"
    if any(LONE_SURROGATE.search(turn) for turn in turns if isinstance(turn, str)):
        yield "surrogate", _HALF
