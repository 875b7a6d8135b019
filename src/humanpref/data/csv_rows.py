"""Read the rows of CSV files, with any of three delimiters, as text."""

import contextlib
import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from humanpref.schema import InputError

# Once escaped, a single response can exceed the csv module's default limit of 131,072 characters.
_FIELD_LIMIT = 2**31 - 1
DELIMITERS = {",": "CSV", ";": "CSV with semicolons", "\t": "CSV with tabs"}


def csv_rows(path: str | Path) -> Iterator[list[str]]:
    """Yield the rows of a UTF-8 CSV with commas, starting with the header and skipping empty lines.

    Raises
    ------
    InputError
        If the file cannot be read, is not UTF-8 or is not a valid CSV.
    """
    with csv_errors(str(path)), open(path, "rb") as file:
        yield from _rows(decoded(file), ",")


def decoded(file: io.BufferedIOBase, encoding: str = "utf-8-sig") -> TextIO:
    """Return the text of a binary file, with lone surrogates and line ends unchanged."""
    return io.TextIOWrapper(file, encoding=encoding, errors="surrogatepass", newline="")


def delimited_rows(text: TextIO) -> tuple[str, Iterator[list[str]]]:
    """Return the delimiter of a CSV and its rows, starting with the header.

    The delimiter is the one that splits the first line into the most fields: a comma, a semicolon
    or a tab.

    >>> delimiter, rows = delimited_rows(io.StringIO("id;prompt\\n7;a, b\\n"))
    >>> delimiter, list(rows)
    (';', [['id', 'prompt'], ['7', 'a, b']])
    """
    first = first_line(text)
    delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([first], delimiter=each), [])))
    return delimiter, _rows(itertools.chain([first], text), delimiter)


def first_line(text: TextIO) -> str:
    """Return the first line that is not blank, or an empty string."""
    return next((line for line in text if line.strip()), "")


def _rows(lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(_FIELD_LIMIT)
    return filter(None, csv.reader(lines, delimiter=delimiter, strict=True))


@contextlib.contextmanager
def csv_errors(name: str) -> Iterator[None]:
    """Convert an error in the block, which reads a CSV, to a one-line InputError about `name`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: expected a CSV, got a file that is not {error.encoding.upper()} text (byte "
            f"{error.start})"
        ) from None
    except csv.Error as error:
        raise InputError(
            f"{name}: not a valid CSV ({error}); is the file truncated, or is a quote not closed?"
        ) from None
