"""Generate an arena, in memory or as files in the competition's format."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator

from humanpref.arena.latents import draw_answers, draw_conversations, draw_models, draw_owners
from humanpref.arena.texts import respell, to_cell, write_answer, write_prompt
from humanpref.arena.truth import true_probabilities
from humanpref.arena.vocabulary import MODELS, TEXT
from humanpref.files import temporary_folder
from humanpref.schema import ID, LABEL_COLUMNS, MODEL_COLUMNS, TEXT_COLUMNS, InputError


class Arena(NamedTuple):
    """An arena: one frame per CSV file. `pandas.read_csv` reads an equal frame from the file.

    Prompts and answers are JSON text. Ids are integers, unordered and unique across train and test.

    train : id, model_a, model_b, prompt, response_a, response_b, the three labels (0 or 1); n rows
    test : id, prompt, response_a, response_b; n // 5 rows, at least 1
    sample_submission : id, and 1 / 3 in the three label columns
    truth : id, and the true probabilities in the three label columns; train rows, then test rows
    test_labels : the columns of test, and the three labels
    """

    train: pd.DataFrame
    test: pd.DataFrame
    sample_submission: pd.DataFrame
    truth: pd.DataFrame
    test_labels: pd.DataFrame


def make_arena(rows: int, seed: int) -> Arena:
    """Draw an arena with `rows` training rows. The same arguments always give the same arena.

    Raises
    ------
    InputError
        If `rows` is less than 1 or `seed` is negative.
    """
    if rows < 1 or seed < 0:
        raise InputError(
            f"synthetic arena: expected rows >= 1 and seed >= 0, got rows {rows} and seed {seed}"
        )
    id_rng, train_rng, test_rng = np.random.default_rng(seed).spawn(3)
    ids = id_rng.choice(2**32, size=rows + max(1, rows // 5), replace=False)
    train, train_truth = _draw_rows(ids[:rows], train_rng)
    test, test_truth = _draw_rows(ids[rows:], test_rng)
    return Arena(
        train=train,
        test=test[[ID, *TEXT_COLUMNS]],
        sample_submission=test[[ID]].assign(**dict.fromkeys(LABEL_COLUMNS, 1 / 3)),
        truth=pd.concat([train_truth, test_truth], ignore_index=True),
        test_labels=test.drop(columns=list(MODEL_COLUMNS)),
    )


def _draw_rows(ids: np.ndarray, rng: Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw labeled rows. Return them, and a frame with their true probabilities in the label
    columns."""
    rows = len(ids)
    owners = draw_owners(rows, rng)
    distinct = draw_conversations(owners.max() + 1, rng)
    conversations = distinct.iloc[owners].reset_index(drop=True)
    models = draw_models(rows, rng)
    a, b = (draw_answers(conversations, side, rng) for side in models.T)
    identical = (rng.random(rows) < 0.008) | ((a.words == 0) & (b.words == 0)).to_numpy()
    b[identical] = a[identical]

    probabilities = true_probabilities(a, b, conversations["kind"], identical)
    labels = (rng.random((rows, 1)) > probabilities.cumsum(axis=1)[:, :2]).sum(axis=1)

    conversations = list(distinct.itertuples())
    prompts = [write_prompt(conversation, rng) for conversation in conversations]
    prompts[0] = [TEXT["greeting"]]
    respelt = (np.bincount(owners)[owners] > 1) & (rng.random(rows) < 0.2)
    cells = []
    for owner, answer_a, answer_b, changed, same in zip(
        owners, a.itertuples(), b.itertuples(), respelt, identical, strict=True
    ):
        conversation = conversations[owner]
        prompt = respell(prompts[owner], rng) if changed else prompts[owner]
        response_a = write_answer(conversation, answer_a, rng)
        response_b = response_a if same else write_answer(conversation, answer_b, rng)
        cells.append([to_cell(turns, rng) for turns in (prompt, response_a, response_b)])

    frame, truth = pd.DataFrame({ID: ids}), pd.DataFrame({ID: ids})
    frame[list(MODEL_COLUMNS)] = MODELS.index.to_numpy()[models]
    frame[list(TEXT_COLUMNS)] = pd.DataFrame(cells)
    frame[list(LABEL_COLUMNS)] = np.eye(3, dtype=np.int64)[labels]
    truth[list(LABEL_COLUMNS)] = probabilities
    return frame, truth


def write_arena(folder: Path, rows: int, seed: int) -> Arena:
    """Write the frames of `make_arena(rows, seed)` into `folder`, one CSV each, and return the
    arena.

    The folder is created if it does not exist. The same arguments always give the same bytes. No
    file is replaced, since the folder may hold the competition's own files. Either all files are
    written or none.

    Raises
    ------
    InputError
        As for `make_arena`, or if one of the files exists or cannot be written.
    """
    arena = make_arena(rows, seed)
    files = {f"{name}.csv": frame for name, frame in arena._asdict().items()}
    for name in files:
        if (folder / name).exists():
            raise InputError(
                f"{folder / name}: already exists; name a different folder, or remove it"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder / "arena" if folder.is_dir() else folder) as unfinished:
        for name, frame in files.items():
            frame.to_csv(unfinished / name, index=False, lineterminator="\n")
        folder.mkdir(exist_ok=True)
        for name in files:
            os.replace(unfinished / name, folder / name)
    return arena
