"""Write a pairs frame as a file in the competition's schema."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.data.formats.labels import WINNER
from humanpref.data.frames import as_pairs
from humanpref.data.reading import read
from humanpref.data.tables import open_table
from humanpref.files import write_csv, write_whole
from humanpref.schema import FORMATS, ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, WEIGHT

JSON_LINES = ".jsonl"


def write_pairs(path: str | Path, pairs: pd.DataFrame) -> None:
    """Atomically write a pairs frame to a file that `read_pairs` reads back unchanged: JSON lines
    if the name ends in `.jsonl`, otherwise a CSV. An existing file is replaced."""
    if Path(path).suffix.lower() != JSON_LINES:
        # Quote all texts: Python before 3.13 leaves a text with a carriage return unquoted, and a
        # reader would take the carriage return for the end of the line.
        write_csv(path, csv_cells(pairs), quoting=csv.QUOTE_NONNUMERIC)
        return
    pairs = as_pairs(pairs)[_columns(pairs)]
    with write_whole(path) as file:
        for row in zip(*(pairs[column].tolist() for column in pairs), strict=True):
            file.write(json.dumps(dict(zip(pairs, row, strict=True)), ensure_ascii=False) + "\n")


def csv_cells(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return a pairs frame in the competition's schema, with the texts as JSON lists."""
    pairs = as_pairs(pairs)
    cells = {
        column: [json.dumps(turns, ensure_ascii=False) for turns in pairs[column]]
        for column in TEXT_COLUMNS
    }
    return pairs[_columns(pairs)].assign(**cells)


def competition_cells(source: Any, format: str | None = None) -> pd.DataFrame:
    """Return a source's cells in the competition's schema. A CSV that already has this schema keeps
    its cells unchanged; cells from any other source are formatted as by `write_pairs`."""
    reading = read(source, format=format, weights=True)
    with open_table(source) as table:
        kept = {ID, *TEXT_COLUMNS} <= set(table.columns) and WINNER not in table.columns
        if kept and reading.format == FORMATS[0] and table.kind.startswith("CSV"):
            rows = list(table.read(table.columns))
            return pd.DataFrame(rows, columns=table.columns, dtype=object)
    return csv_cells(reading.pairs)


def _columns(pairs: pd.DataFrame) -> list[str]:
    every = (ID, *MODEL_COLUMNS, *TEXT_COLUMNS, *LABEL_COLUMNS, WEIGHT)
    return [column for column in every if column in pairs or column == ID]
