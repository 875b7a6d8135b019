"""Turn tables into text: cells for people to read, and Markdown."""

import pandas as pd

MISSING = "–"


def columns(table: pd.DataFrame, places: int = 3) -> list[tuple[str, bool, list[str]]]:
    """Return, for each column, its name, whether it is numeric, and its cells as text.

    Numbers get thousands separators. Numbers that are not integers are rounded to `places` decimals
    or, from 100 upward, to integers. A missing value becomes –.

    Examples
    --------
    >>> columns(pd.DataFrame({"rows": [1200, 7], "log_loss": [1.0986, None]}))
    [('rows', True, ['1,200', '7']), ('log_loss', True, ['1.099', '–'])]
    """
    return [
        (str(name), pd.api.types.is_numeric_dtype(column), _cells(column, places))
        for name, column in table.items()
    ]


def _cells(column: pd.Series, places: int) -> list[str]:
    if not pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        return [MISSING if pd.isna(value) else str(value) for value in column]
    if (column.dropna() % 1 == 0).all():
        places = 0
    return [
        MISSING if pd.isna(value) else f"{value:,.{0 if abs(value) >= 100 else places}f}"
        for value in column
    ]


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, with numbers rounded to four decimals."""
    shown = [
        [_cell(name), "---", *map(_cell, cells)] for name, _, cells in columns(table, places=4)
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in zip(*shown, strict=True))


def _cell(text: str) -> str:
    """Escape a text so that it cannot end its cell or its row of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
