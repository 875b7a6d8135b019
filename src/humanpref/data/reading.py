"""Read pairs in any of the known formats from a file, a folder or an object into a pairs frame.

Data travels one way: bytes, a table of raw cells (`tables`), its format (`formats`), checked rows
(`rows`), a pairs frame.
"""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from humanpref.data.formats import detect
from humanpref.data.formats.chosen_rejected import PAIR
from humanpref.data.formats.forms import prevailing_form
from humanpref.data.formats.labels import WINNER
from humanpref.data.rows import QUESTION_ID, Fault, Plan, RowParser
from humanpref.data.tables import BadRow, Cells, Table, open_table
from humanpref.schema import (
    ID,
    LABEL_COLUMNS,
    MODEL_COLUMNS,
    TEXT_COLUMNS,
    WEIGHT,
    InputError,
    counted,
)

logger = logging.getLogger(__name__)

_IDS = (ID, QUESTION_ID)
"""The names that the column of ids may have."""
_HEAD_ROWS = 50
"""Number of rows that decide which form the texts have."""
DRAWN = (
    "expected two answers, A and B, got chosen and rejected, which do not say which one is A; "
    "rename them response_a and response_b"
)
"""The error message for rows in the format `chosen-rejected`, when the output would not contain the
texts and so could not show which answer is A."""


def read_pairs(
    source: Any,
    labels: bool | None = None,
    lenient: bool = False,
    weights: bool = False,
    format: str | None = None,
) -> pd.DataFrame:
    """Read pairs into a pairs frame (see `humanpref.schema`).

    The columns and the first rows of the source decide which of `humanpref.schema.FORMATS` it has;
    one log line says which. Null turns become empty strings, and a missing cell becomes a
    conversation without turns; lone surrogates, which no encoder accepts, become U+FFFD.

    Parameters
    ----------
    source : path or object
        A file, a folder of shards, a DataFrame, a sequence of dicts or a `datasets.Dataset`, as
        listed in `humanpref.data.tables.open_table`.
    labels : bool, optional
        If True, labels are required; if False, they are not read; if None, they are read if the
        source has them.
    lenient : bool
        If a text has a different form than the others, log a warning and take it as one turn. If an
        id is repeated, log a warning and keep the row. If the columns of several formats are
        present, choose the competition's. The inference kernel uses this, so that it can predict
        all rows even if one is malformed.
    weights : bool
        Read `weight` even if the labels are not read.
    format : str, optional
        The name of the format, one of `humanpref.schema.FORMATS`. By default, it is detected.

    Returns
    -------
    DataFrame
        Rows in the order of the source, with `id`, the texts, and `model_a` and `model_b` if the
        source has both. If the labels are read, also the label columns (float64, each row summing
        to 1); `winner_tie` is missing if the format has no ties. `weight` (float64) is included if
        the source has it and `weights` is True or labels are read. If there are no ids, or if a
        `question_id` is repeated, rows are numbered from 0. If labels are read, rows in which
        `chosen` equals `rejected` are left out and counted in the log line.

    Raises
    ------
    InputError
        For a source that cannot be read or has no rows; for a missing column; for an invalid text,
        label, weight or id; if the format is in doubt. The message names the file, the row (counted
        from 1, excluding the header), its id and the column.

    Examples
    --------
    >>> rows = [{"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "winner": "model_a"}]
    >>> read_pairs(rows)[["id", "response_a"]].to_dict("records")
    [{'id': '0', 'response_a': ('4',)}]
    """
    return read(source, labels, lenient=lenient, weights=weights, format=format).pairs


def read_faulty(source: Any, format: str | None = None) -> tuple[pd.DataFrame, list[Fault]]:
    """Read the usable rows of a source, and list the faults of all rows.

    Parameters
    ----------
    source, format
        As for `read_pairs`. Labels are read if the source has them.

    Returns
    -------
    pairs : DataFrame
        A pairs frame. A text of a different form than the others becomes one turn; rows that are
        unusable for any other reason are omitted.
    faults : list of Fault
        The faults, in the order of the rows. They include the null turns and lone surrogates that
        `read_pairs` repairs without a warning.

    Raises
    ------
    InputError
        For a source that cannot be read, lacks a column, or has no usable row.
    """
    reading = read(source, lenient=True, format=format, keep_faults=True)
    return reading.pairs, reading.faults


def read_labels(source: Any) -> pd.DataFrame:
    """Read a file with labels (hard or soft), such as a submission: its ids, its labels and, if it
    has them, its texts.

    Raises
    ------
    InputError
        As for `read_pairs`.
    """
    return read(source, True, texts_required=False).pairs


@dataclass
class Reading:
    """The rows read from a source, and the facts found out about it.

    Attributes
    ----------
    pairs : DataFrame
        The pairs frame.
    format : str
        The name of the format.
    faults : list of Fault
        The faults, if they were kept instead of raised.
    lost : list of str
        Descriptions of the parts of the source that a pairs frame cannot hold.
    """

    pairs: pd.DataFrame
    format: str
    faults: list[Fault]
    lost: list[str]


def read(
    source: Any,
    labels: bool | None = None,
    *,
    texts_required: bool = True,
    lenient: bool = False,
    weights: bool = False,
    format: str | None = None,
    keep_faults: bool = False,
    ids: bool = True,
) -> Reading:
    """Read a source as `read_pairs` does, and also return its format, its faults and what was lost.

    If `texts_required` is False, texts are read only if the source has the competition's columns
    for them, and ids are required. If `keep_faults` is True, faults are returned instead of raised.
    If `ids` is False, rows are numbered from 0, and the log line about the format has the level
    DEBUG; a judge, which reads a single pair per call, would otherwise fill the log.
    """
    with open_table(source) as table:
        plan = _plan(table, labels, texts_required, weights, format, lenient, ids)
        rows = table.read([*plan.columns])
        if plan.texts:
            head = _head(rows, len(plan.texts))
            texts = [cells[: len(plan.texts)] for cells in head if not isinstance(cells, BadRow)]
            plan.format = detect.format_of(plan.texts, texts, format, literal=lenient)
            rows = itertools.chain(head, rows)
        parser = RowParser(table, plan, lenient, keep_faults)
        pairs = _frame(rows, parser)
    name = plan.format.name if plan.format else detect.COMPETITION
    if (
        format is None
        and LABEL_COLUMNS[2] in pairs
        and detect.looks_like_wsdm(name, table.columns)
        and not pairs[LABEL_COLUMNS[2]].any()
    ):
        name, pairs = detect.WSDM, pairs.drop(columns=LABEL_COLUMNS[2])
    _tell(table, parser, name, pairs, logging.INFO if ids else logging.DEBUG)
    return Reading(pairs, name, parser.faults, _lost(table, parser))


def _plan(
    table: Table,
    required: bool | None,
    texts_required: bool,
    weights: bool,
    format: str | None,
    lenient: bool,
    with_ids: bool,
) -> Plan:
    """Choose the columns to read. Raises InputError for a missing or repeated column."""
    header = table.columns
    if len(set(header)) < len(header):
        repeated = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{table.name}: column {repeated!r} appears twice in the header")
    texts: tuple[str, ...] = ()
    if texts_required or set(TEXT_COLUMNS) <= set(header):
        texts = detect.text_columns(header, table.name, format, lenient)
    ids = tuple(column for column in _IDS if with_ids and column in header)[:1]
    if not texts_required and not ids:
        raise InputError(
            f"{table.name}: missing column {ID!r}; the columns are {detect.listed(header)}"
        )
    drawn, reader = texts[-2:] == PAIR, None
    if required is not False and not drawn:
        reader = detect.label_reader(header, table.name, required, format)
    draws = drawn and required is not False
    models = tuple(column for column in MODEL_COLUMNS if column in header and not drawn)
    if len(models) == 1:
        (missing,) = {*MODEL_COLUMNS} - {*models}
        logger.warning("%s: ignoring column %r because %r is missing", table.name, *models, missing)
        models = ()
    weighted = WEIGHT in header and (weights or draws or reader is not None)
    return Plan(texts, ids, reader, draws, models, (WEIGHT,) if weighted else ())


def _head(rows: Iterator[Cells], texts: int) -> list[Cells]:
    """Return the first `_HEAD_ROWS` rows. If their texts are all empty or missing, so that they
    show no form, also return the following rows up to the first one that shows a form."""
    head: list[Cells] = []
    decided = False
    for cells in rows:
        head.append(cells)
        decided = decided or (
            not isinstance(cells, BadRow) and prevailing_form(cells[:texts]) is not None
        )
        if decided and len(head) >= _HEAD_ROWS:
            break
    return head


def _frame(rows: Iterable[Cells], parser: RowParser) -> pd.DataFrame:
    """Parse all rows and return the usable ones as a pairs frame."""
    plan, name = parser.plan, parser.table.name
    texts = TEXT_COLUMNS if plan.texts else ()
    columns = (ID, *texts, *plan.models, *plan.winners, *plan.weight)
    held: tuple[list, ...] = tuple([] for _ in columns)
    numbers = []
    for number, cells in enumerate(rows, start=1):
        values = parser.parse(number, cells)
        if values is not None:
            numbers.append(number)
            for own, value in zip(held, values, strict=True):
                own.append(value)
    if not held[0]:
        why = "there is a header but no rows"
        if parser.faults:
            why = f"no usable row: {parser.at(parser.faults[0])}"
        elif parser.equal:
            why = "chosen equals rejected in each of its rows"
        raise InputError(f"{name}: {why}")
    if parser.repeated:
        held[0][:] = (str(number - 1) for number in numbers)
    # Store strings and tuples as Python objects; otherwise pandas would inspect the tuples.
    numeric = (*LABEL_COLUMNS, WEIGHT)
    pairs = pd.DataFrame(
        {
            column: pd.Series(values, dtype=np.float64 if column in numeric else object)
            for column, values in zip(columns, held, strict=True)
        }
    )
    if plan.winners:
        labelled = pairs[list(plan.winners)].to_numpy()
        pairs[list(plan.winners)] = labelled / labelled.sum(axis=1, keepdims=True)
    if plan.weight and not 0 < (total := pairs[WEIGHT].sum()) < math.inf:
        raise InputError(
            f"{name}: column {WEIGHT!r}: expected a positive, finite sum, got {total:g}"
        )
    return pairs


def _tell(table: Table, parser: RowParser, name: str, pairs: pd.DataFrame, level: int) -> None:
    """Log one line, at this level, about the rows and how they were read. Log warnings about empty
    prompts and, for `chosen` and `rejected` texts without a prompt column, about empty answers."""
    plan = parser.plan
    known = {*LABEL_COLUMNS, WINNER, *PAIR} & {*table.columns}
    unread = ", labels not read" if known else ", no labels"
    notes = [f"{counted(len(pairs), 'row')}{'' if plan.winners else unread}"]
    if plan.format:
        notes.append(f"format {name} ({table.kind}, each text {plan.format.description})")
    if plan.winners and LABEL_COLUMNS[2] not in pairs:
        by_look = plan.labels is not None and plan.labels.ties
        hint = f" (as in WSDM Cup; --format {detect.PLAIN} keeps three)" if by_look else ""
        notes.append(f"no ties, hence two classes{hint}")
    if parser.repeated or not plan.id:
        why = f", since {QUESTION_ID} is not unique ({parser.repeated})" if parser.repeated else ""
        notes.append(f"ids numbered from 0{why}")
    if parser.equal:
        notes.append(f"{counted(parser.equal, 'row')} left out because chosen equals rejected")
    logger.log(level, "%s: %s", table.name, "; ".join(notes))
    if plan.texts and (empty := sum(not any(map(str.strip, turns)) for turns in pairs["prompt"])):
        logger.warning("%s: the prompt is empty in %d of %d rows", table.name, empty, len(pairs))
    if plan.texts == PAIR and not plan.format.form.is_messages:
        answers = pairs[[*TEXT_COLUMNS[1:]]].map(lambda turns: not any(map(str.strip, turns)))
        if empty := int(answers.any(axis=1).sum()):
            text = (
                "%s: an answer is empty in %d of %d rows; without a column 'prompt', the beginning "
                "that both texts share is the prompt"
            )
            logger.warning(text, table.name, empty, len(pairs))


def _lost(table: Table, parser: RowParser) -> list[str]:
    """Describe the parts of the table that the pairs frame cannot hold."""
    numbered = parser.plan.id if parser.repeated else ()
    read = {*parser.plan.columns, *LABEL_COLUMNS, WINNER, WEIGHT} - {*numbered}
    unread = [column for column in table.columns if column not in read]
    lost = [f"the column {detect.listed(unread)}"] if unread else []
    lost += [f"{what} ({count})" for what, count in parser.lost.items()]
    equal = [f"rows whose chosen equals rejected ({parser.equal})"] if parser.equal else []
    return [*lost, *equal]
