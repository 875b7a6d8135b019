"""Use an artifact as a judge or reward signal: read a file, and write its rows with scores added.

A line of JSON is an object with `prompt`, `response_a` and `response_b`, or with `prompt` and
`response`. All texts in such a file have the same format: lists of turns, strings that are one turn
each, or strings that are JSON lists as in the competition's CSV (see `humanpref.data.CellRule`).
All other keys of a line are kept.
"""

import codecs
import json
import logging
import math
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd

from humanpref.data import CellRule
from humanpref.files import is_main_process, unique, write_whole
from humanpref.interfaces.batch import MARGIN, PROBABILITIES, added_columns
from humanpref.interfaces.judge import load
from humanpref.interfaces.shard import judge_file
from humanpref.models import Model
from humanpref.runs.artifact import Artifact
from humanpref.schema import ID, TEXT_COLUMNS, InputError

PAIR = TEXT_COLUMNS[1:]
SINGLE = "response"
REWARD = "reward"
"""The key that is added to a single response. Like the margin of a pair, it is in nats."""
BATCH_LINES = 1_024
"""Maximum number of lines in memory at a time."""

logger = logging.getLogger(__name__)


class _Line(NamedTuple):
    number: int
    """The line's number in the file, counted from 1."""
    content: dict[str, Any]


def score(
    artifact: Artifact | None, source: str | Path, out: str | Path, format: str | None = None
) -> int:
    """Copy the rows of `source` to `out` and add scores to each. `out` is written atomically.

    If `source` is not a file of JSON lines, or if `format` is given, all rows must be pairs, and
    `humanpref.interfaces.shard.judge_file` judges them. Otherwise, a pair gets `p_a`, `p_b`,
    `p_tie` and `margin` = ln P(A) - ln P(B); a prompt with one response gets `reward`. JSON lines
    are read twice: first to find bad lines before work that may take hours, and then to score them.
    Only part of them is in memory at a time.

    Parameters
    ----------
    artifact : Artifact, optional
        The artifact that computes the scores; by default, the packaged judge. If it has several
        models (folds), their probabilities and rewards are averaged.
    source, out : path
        JSON lines in UTF-8 (empty lines are skipped), or pairs in any file that
        `humanpref.data.read_pairs` reads.
    format : str, optional
        The format of the pairs, one of `humanpref.schema.FORMATS`.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    InputError
        If `source` cannot be read or has no rows, or if a line is not an object with the required
        keys, already has a key that would be added, or needs a reward that the model cannot
        compute. The message names the file and, for a faulty line, its number and the key.
    """
    source = Path(source)
    if not source.is_file():
        raise InputError(f"{source}: cannot be read (not a file)")
    if format is not None or not _is_json_lines(source):
        return judge_file(load(artifact), source, Path(out), format)
    single, count, rule = None, 0, CellRule()
    for line in _lines(source):
        count += 1
        for key in _keys(line.content):
            try:
                rule.see(line.content[key], f"line {line.number}, key {key!r}")
            except ValueError as error:
                _refuse(source, line.number, key, str(error))
        single = single or (line if SINGLE in line.content else None)
    if not count:
        raise InputError(f"{source}: contains no lines")
    models = artifact.models if artifact else [load().model]
    if single is not None and not all(hasattr(model, "rewards") for model in models):
        _refuse(
            source,
            single.number,
            SINGLE,
            f"{_family(artifact)} cannot score a single response (family dpo can); provide "
            "response_a and response_b",
        )
    done, lines = 0, _lines(source)
    with write_whole(out) if is_main_process() else open(os.devnull, "w") as file:
        while part := list(islice(lines, BATCH_LINES)):
            scores = _scores(models, part, rule)
            for line in part:
                text = json.dumps(line.content | scores[line.number], ensure_ascii=False)
                # UTF-8 cannot encode lone surrogates; JSON can escape them.
                file.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
            done += len(part)
            logger.info("%s: %d of %d lines", source, done, count)
    return count


def _is_json_lines(source: Path) -> bool:
    """Return whether a file begins with a JSON object, or is empty."""
    try:
        with source.open("rb") as file:
            start = file.read(1_024).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from None
    return start[:1] in (b"", b"{")


def _family(artifact: Artifact | None) -> str:
    return f"family {artifact.facts['family']}" if artifact else "the packaged judge"


def _scores(models: list[Model], lines: list[_Line], rule: CellRule) -> dict[int, dict[str, float]]:
    """Return the keys and values to add to each line, by line number."""
    scores: dict[int, dict[str, float]] = {}
    for single in (False, True):
        chosen = [line for line in lines if (SINGLE in line.content) == single]
        if not chosen:
            continue
        rows = [[rule.turns(line.content[key]) for key in _keys(line.content)] for line in chosen]
        numbers = [line.number for line in chosen]
        frame = pd.DataFrame(rows, columns=list(TEXT_COLUMNS), dtype=object)
        frame.insert(0, ID, list(map(str, numbers)))
        if single:
            added = {REWARD: np.mean([model.rewards(frame) for model in models], axis=0)}
        else:
            probabilities = np.mean([model.predict_proba(frame) for model in models], axis=0)
            added = added_columns(probabilities)
        scores |= pd.DataFrame(added, index=numbers).to_dict("index")
    return scores


def _lines(source: Path) -> Iterator[_Line]:
    try:
        with source.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield _line(source, number, text)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: expected JSON lines, got a file that is not UTF-8 text (byte {error.start})"
        ) from None


def _line(source: Path, number: int, text: str) -> _Line:
    try:
        content = json.loads(
            text, object_pairs_hook=unique, parse_constant=_finite, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: line {number}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(
            f"{source}: line {number}: expected a JSON object, got {text.strip()[:60]!r}"
        )
    single, pair = SINGLE in content, [key for key in PAIR if key in content]
    if single and pair:
        _refuse(
            source,
            number,
            SINGLE,
            f"appears along with {pair[0]!r}; expected one response, or response_a and response_b",
        )
    for key in _keys(content):
        if key not in content:
            _refuse(
                source,
                number,
                key,
                f"is missing; the line has {', '.join(map(repr, content)) or 'no keys'}"[:200],
            )
    for key in (REWARD,) if single else (*PROBABILITIES, MARGIN):
        if key in content:
            _refuse(source, number, key, "already exists and would be replaced by the score")
    return _Line(number, content)


def _keys(content: dict[str, Any]) -> tuple[str, ...]:
    """Return the keys of a line's prompt, A and B. A single response is used as both A and B."""
    return (TEXT_COLUMNS[0], *((SINGLE, SINGLE) if SINGLE in content else PAIR))


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"the number {number} is not finite")
    return float(number)


def _refuse(source: Path, number: int, key: str, reason: str) -> NoReturn:
    raise InputError(f"{source}: line {number}: key {key!r}: {reason}")
