"""A report as one self-contained HTML page: sections of text, figures and tables. It loads nothing and runs no script."""

import base64
import html
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from humanpref.files import write_whole

# The browser is told so, too: whatever a row's text holds, nothing is fetched and nothing runs.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1200px; padding: 0 16px 48px; color: #1b1f24; background: #fff;
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 32px 0 8px; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 40px 0 4px; padding-top: 12px; border-top: 1px solid #d0d7de }
p { margin: 4px 0 12px; max-width: 75ch }
nav { columns: 16rem; margin: 16px 0 }
nav a { display: block; color: #0b5394; padding: 3px 0 }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 20px; align-items: start }
figure { margin: 0; min-width: 0 }
img { display: block; width: 100%; max-width: 640px; height: auto }
figure.wide { grid-column: 1 / -1; overflow-x: auto }
figure.wide img { max-width: 1150px; min-width: 1000px }
figcaption { margin-bottom: 6px; max-width: 640px }
.table { overflow-x: auto; margin: 8px 0 20px }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding: 4px 0 }
th, td { padding: 4px 10px; border-bottom: 1px solid #e4e8ec; text-align: left; white-space: nowrap }
td.text { white-space: normal; min-width: 24rem; overflow-wrap: anywhere }
td.number, th.number { text-align: right }
thead th { border-bottom: 2px solid #8a8f98 }
summary { cursor: pointer; color: #0b5394; padding: 8px 0 }
"""
_OPEN_ROWS = 20
"""A longer table is folded."""


@dataclass(frozen=True)
class Picture:
    """A figure: the PNG file, its title, and a sentence on what to see in it."""

    path: Path
    title: str
    see: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, figures, and tables by their captions."""

    title: str
    text: str = ""
    pictures: list[Picture] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def write_page(path: Path, title: str, intro: str, sections: list[Section]) -> None:
    """Write the page, whole or not at all. All text is escaped; figures are inlined."""
    links = "".join(f'<a href="#s{i}">{_text(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(f"s{i}", section) for i, section in enumerate(sections))
    with write_whole(path) as file:
        file.write(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n<title>{_text(title)}</title>\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
            f"<style>{_STYLE}</style></head><body>\n<h1>{_text(title)}</h1>\n<p>{_text(intro)}</p>\n<nav>{links}</nav>\n"
            f"{body}</body></html>\n"
        )


def _section(anchor: str, section: Section) -> str:
    parts = [f'<h2 id="{anchor}">{_text(section.title)}</h2>\n']
    parts += [f"<p>{_text(section.text)}</p>\n"] if section.text else []
    if section.pictures:
        parts.append(f'<div class="figures">{"".join(map(_picture, section.pictures))}</div>\n')
    parts += [_table(caption, table) for caption, table in section.tables.items()]
    return "".join(parts)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    wide = ' class="wide"' if picture.wide else ""
    return (
        f"<figure{wide}><figcaption><b>{_text(picture.title)}.</b> {_text(picture.see)}</figcaption>"
        f'<img src="data:image/png;base64,{data}" alt="{_text(picture.title)}"></figure>\n'
    )


def _table(caption: str, table: pd.DataFrame) -> str:
    number = [pd.api.types.is_numeric_dtype(table[column]) for column in table]
    head = "".join(
        f'<th scope="col"{" class=number" if right else ""}>{_text(str(name).replace("_", " "))}</th>'
        for name, right in zip(table, number, strict=True)
    )
    cells = [[_cell(text, right) for text in texts_of(table[name])] for name, right in zip(table, number, strict=True)]
    rows = "".join(f"<tr>{''.join(row)}</tr>\n" for row in zip(*cells, strict=True))
    whole = (
        f'<div class="table"><table><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>\n"
    )
    return (
        whole
        if len(table) <= _OPEN_ROWS
        else f"<details><summary>{_text(caption)}: {len(table):,} rows</summary>{whole}</details>\n"
    )


def _cell(text: str, number: bool) -> str:
    kind = " class=number" if number else " class=text" if len(text) > 40 else ""
    return f"<td{kind}>{_text(text)}</td>"


def texts_of(column: pd.Series) -> list[str]:
    """A column as a table shows it: whole numbers with thousands' commas, others with three digits behind the point, from 100
    on with none; NaN: –."""
    if not pd.api.types.is_numeric_dtype(column) or column.dtype == bool:
        return [str(value) for value in column]
    whole = (column.dropna() % 1 == 0).all()
    return ["–" if pd.isna(v) else f"{v:,.0f}" if whole or abs(v) >= 100 else f"{v:.3f}" for v in column]


def _text(text: str) -> str:
    # Control characters are no valid HTML, escaped or not.
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text))
