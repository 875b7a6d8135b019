"""Write a report's tables and its page. The page is self-contained: it loads nothing and runs no
scripts.

A report is a folder with `figures/*.png`, drawn by `humanpref.reports.charts`, `tables/*.csv`, and
`index.html`, rendered from a template in `templates/`.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.extras import install_line
from humanpref.files import write_csv, write_whole
from humanpref.reports.table_text import columns
from humanpref.schema import InputError

PAGE_FILE = "index.html"


def write_tables(folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the tables of a report as `tables/NAME.csv`."""
    (folder / "tables").mkdir()
    for name, table in tables.items():
        write_csv(folder / "tables" / f"{name}.csv", table)


def write_page(folder: Path, template: str, **values: Any) -> None:
    """Render a template into the folder's `index.html`, with the folder's figures inlined.

    Parameters
    ----------
    folder : Path
        The report's folder, with the figures that the template shows.
    template : str
        The name of a file in `templates/`.
    **values
        The values that the template shows. All are escaped, regardless of their content.

    Raises
    ------
    InputError
        If Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError:
        raise InputError(f"pages need Jinja2: {install_line('figures')}") from None
    environment = Environment(
        loader=PackageLoader("humanpref.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["columns"] = columns
    figures = {
        path.stem: base64.b64encode(path.read_bytes()).decode()
        for path in (folder / "figures").glob("*.png")
    }
    with write_whole(folder / PAGE_FILE) as file:
        file.write(environment.get_template(template).render(figures=figures, **values))


def _printable(value: Any) -> Any:
    """Replace the control characters in a string, since HTML forbids them even in escaped form."""
    # Markup objects have already been through this function.
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in value
    )
