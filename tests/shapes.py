"""The same pairs in every shape in which people have pairs."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from humanpref.data import swap_pairs

LABELS = ["winner_model_a", "winner_model_b", "winner_tie"]
WINNERS = ["model_a", "model_b", "tie"]


def pairs_frame() -> pd.DataFrame:
    """Twelve rows with large ids: four wins of A, four of B, four ties."""
    rows = [
        (str(2**60 + i), (f"Wie geht {i}?",), (f"So, {i}; ja",), (f"Nein\t{i}\n",))
        for i in range(12)
    ]
    frame = pd.DataFrame(rows, columns=["id", "prompt", "response_a", "response_b"], dtype=object)
    frame[LABELS] = np.eye(3)[np.arange(12) % 3]
    return frame


def decided_frame() -> pd.DataFrame:
    """The rows without ties, as a format without ties holds them."""
    frame = pairs_frame()
    frame = frame[frame["winner_tie"] == 0].reset_index(drop=True)
    return frame.drop(columns="winner_tie")


def said(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text}


def asked(prompt: str, answer: str) -> list[dict[str, Any]]:
    return [said("user", prompt), said("assistant", answer)]


def parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as arena-human-preference-140k has them."""
    empty = {"image": None, "mimeType": None}
    return [
        said(message["role"], [{"type": "text", "text": message["content"]} | empty])
        for message in messages
    ]


class Pair(NamedTuple):
    key: str
    prompt: str
    a: str
    b: str
    winner: int

    @property
    def sides(self) -> tuple[str, str]:
        """The chosen and the rejected answer."""
        return (self.b, self.a) if self.winner else (self.a, self.b)


def pairs(ties: bool) -> list[Pair]:
    frame = pairs_frame() if ties else decided_frame()
    labels = frame[[label for label in LABELS if label in frame]].to_numpy().argmax(axis=1)
    texts = (frame[column].str[0] for column in ("prompt", "response_a", "response_b"))
    return [Pair(*row) for row in zip(frame["id"], *texts, labels, strict=True)]


def competition(pair: Pair, encode: Callable = lambda turns: json.dumps(turns)) -> dict[str, Any]:
    texts = zip(("prompt", "response_a", "response_b"), pair[1:4], strict=True)
    hot = {label: int(i == pair.winner) for i, label in enumerate(LABELS)}
    return {"id": pair.key} | {name: encode([text]) for name, text in texts} | hot


def with_winner(pair: Pair, encode: Callable = lambda turns: turns[0]) -> dict[str, Any]:
    row = {name: cell for name, cell in competition(pair, encode).items() if name not in LABELS}
    return row | {"winner": WINNERS[pair.winner]}


def conversations(pair: Pair, encode: Callable = lambda messages: messages) -> dict[str, Any]:
    return {
        "question_id": pair.key,
        "winner": ["Model_A", "model_b", "tie (bothbad)"][pair.winner],
        "conversation_a": encode(asked(pair.prompt, pair.a)),
        "conversation_b": encode(asked(pair.prompt, pair.b)),
    }


def chosen(pair: Pair) -> dict[str, Any]:
    return {"id": int(pair.key), "prompt": pair.prompt} | dict(
        zip(("chosen", "rejected"), pair.sides, strict=True)
    )


def chosen_messages(pair: Pair, explicit: bool) -> dict[str, Any]:
    sides = [asked(pair.prompt, side) for side in pair.sides]
    prompt = {"prompt": sides[0][:1]} if explicit else {}
    own = [side[explicit:] for side in sides]
    return {"id": pair.key} | prompt | dict(zip(("chosen", "rejected"), own, strict=True))


def transcripts(pair: Pair) -> dict[str, Any]:
    texts = [f"\n\nHuman: {pair.prompt}\n\nAssistant: {side}" for side in pair.sides]
    return {"id": pair.key} | dict(zip(("chosen", "rejected"), texts, strict=True))


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1).encode("utf-16")


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    pytest.importorskip("pyarrow")
    return pd.DataFrame(rows).to_parquet(index=False)


def as_zip(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("__MACOSX/._train.csv", b"x")
        archive.writestr("train.csv", as_csv(rows))
    return file.getvalue()


def as_shards(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Shards whose order by name is not their order by number, and what Spark leaves beside."""
    (folder / "shards").mkdir(exist_ok=True)
    for number, part in {2: rows[:5], 3: [], 10: rows[5:]}.items():
        (folder / "shards" / f"part-{number}").write_bytes(as_lines(part))
    (folder / "shards" / "_SUCCESS").touch()
    return folder / "shards"


class Dataset:
    """What this package uses of `datasets.Dataset`."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows, self.column_names = rows, list(rows[0])

    def __iter__(self):
        return iter(self.rows)


class Shape(NamedTuple):
    """How the pairs are laid out."""

    row: Callable[[Pair], dict[str, Any]]
    source: Callable
    """From rows to the bytes of a file, or with the folder to a path, or to an object."""
    format: str
    ties: bool = True
    drawn: bool = False


def _json_text(messages: Any) -> str:
    return json.dumps(messages)


SHAPES = {
    "competition": Shape(competition, as_csv, "competition"),
    "UTF-16": Shape(
        competition, lambda rows: as_csv(rows).decode().encode("utf-16"), "competition"
    ),
    "gzip": Shape(competition, lambda rows: gzip.compress(as_csv(rows)), "competition"),
    "bzip2": Shape(competition, lambda rows: bz2.compress(as_csv(rows)), "competition"),
    "xz": Shape(competition, lambda rows: lzma.compress(as_csv(rows)), "competition"),
    "zip": Shape(competition, as_zip, "competition"),
    "semicolons": Shape(
        lambda pair: competition(pair, lambda turns: turns[0]),
        lambda rows: b"\xef\xbb\xbf" + as_csv(rows, ";"),
        "plain",
    ),
    "tabs": Shape(with_winner, lambda rows: as_csv(rows, "\t"), "plain"),
    "winner as text": Shape(with_winner, as_csv, "plain"),
    "lists in JSON": Shape(
        lambda pair: with_winner(pair, lambda turns: turns), as_json, "competition"
    ),
    "Parquet": Shape(competition, as_parquet, "competition"),
    "WSDM Cup": Shape(
        lambda pair: with_winner(pair) | {"language": "German"}, as_parquet, "wsdm", ties=False
    ),
    "WSDM Cup as lines": Shape(
        lambda pair: with_winner(pair) | {"language": "German"}, as_lines, "wsdm", ties=False
    ),
    "a language, and ties": Shape(
        lambda pair: with_winner(pair) | {"language": "German"}, as_lines, "plain"
    ),
    "arena 100k": Shape(conversations, as_parquet, "conversations"),
    "arena 140k": Shape(lambda pair: conversations(pair, parts), as_lines, "conversations"),
    "arena, JSON in CSV": Shape(
        lambda pair: conversations(pair, _json_text), as_csv, "conversations"
    ),
    "messages": Shape(
        lambda pair: (
            with_winner(pair)
            | {
                "prompt": [said("user", pair.prompt)],
                "response_a": [said("assistant", pair.a)],
                "response_b": [said("assistant", pair.b)],
            }
        ),
        as_lines,
        "messages",
    ),
    "trl": Shape(chosen, as_lines, "chosen-rejected", False, True),
    "trl, implicit": Shape(
        lambda pair: chosen_messages(pair, False), as_lines, "chosen-rejected", False, True
    ),
    "trl, explicit": Shape(
        lambda pair: chosen_messages(pair, True), as_parquet, "chosen-rejected", False, True
    ),
    "trl, transcripts": Shape(transcripts, as_csv, "chosen-rejected", False, True),
    "shards": Shape(competition, as_shards, "competition"),
    "a frame": Shape(
        lambda pair: with_winner(pair) | {"id": int(pair.key)},
        lambda rows: pd.DataFrame(rows).set_index("id"),
        "plain",
    ),
    "dicts": Shape(with_winner, lambda rows: rows, "plain"),
    "a dataset": Shape(competition, Dataset, "competition"),
}
FILES = [name for name, shape in SHAPES.items() if name not in ("a frame", "dicts", "a dataset")]


def make(name: str, folder: Path) -> Any:
    """Return the pairs in one shape: a path under `folder` with a name that tells nothing, or an
    object."""
    shape = SHAPES[name]
    folder.mkdir(exist_ok=True)
    rows = [shape.row(pair) for pair in pairs(shape.ties)]
    made = shape.source(rows, folder) if shape.source is as_shards else shape.source(rows)
    if not isinstance(made, bytes):
        return made
    (folder / "rows.dat").write_bytes(made)
    return folder / "rows.dat"


def check(frame: pd.DataFrame, name: str) -> None:
    """Check that the pairs read from a shape are those that it was made of."""
    shape = SHAPES[name]
    expected = pairs_frame() if shape.ties else decided_frame()
    if shape.drawn:
        kept = frame["response_a"] == expected["response_a"]
        mirrored = swap_pairs(frame)
        frame = frame.apply(lambda column: column.where(kept, mirrored[column.name]))
    pd.testing.assert_frame_equal(frame, expected)
