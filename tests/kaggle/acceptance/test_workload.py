"""Random rows are such as the estimates count."""

import numpy as np
import pytest

pytest.importorskip("peft")

from humanpref.kaggle.acceptance.workload import preset_config, workload
from humanpref.text.format import PROMPT, A, B

TEXTS = np.array([[5, 20, 10], [5, 10, 10], [1_000, 1_000, 1_000]])


@pytest.mark.parametrize(
    ("preset", "lengths"),
    [
        ("deberta-v3-small", [58, 38, 128]),
        ("deberta-best", [39, 29, 64]),
        ("llama-3.2-1b-lora", [48, 38, 64]),
        ("llama-3.2-1b-dpo", [74, 54, 128]),
    ],
)
def test_rows_have_the_lengths_of_their_texts_and_learn(tmp_path, preset, lengths):
    work = workload(preset_config(preset, tmp_path, quick=True))
    rows = work.rows(TEXTS)
    assert rows.lengths.tolist() == lengths
    report = work.train(rows, batch_size=2)
    assert (report["steps"], report["tokens"]) == (2, sum(map(len, ids(rows))))


def ids(rows):
    return [sequence.ids for row in rows.sequences for sequence in row]


def test_a_row_has_a_prompt_and_both_responses(tmp_path):
    work = workload(preset_config("deberta-best", tmp_path, quick=True))
    (sequence,) = work.rows(TEXTS).sequences[2]
    assert [list(sequence.parts).count(part) for part in (PROMPT, A, B)] == [8, 28, 28]
