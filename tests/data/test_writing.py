import json

import pandas as pd

from humanpref.data import competition_cells, read_pairs, write_pairs

from ..shapes import make


def test_json_lines_hold_lists_and_are_read_back(pairs, tmp_path):
    names = pd.Series(["a\r\n", "\u2028", ""], dtype=object)
    odd = pairs[:3].assign(model_a=names, weight=[0.1 + 0.2, 0.0, 3.0])
    write_pairs(tmp_path / "again.jsonl", odd)
    pd.testing.assert_frame_equal(read_pairs(tmp_path / "again.jsonl"), odd)
    first = json.loads((tmp_path / "again.jsonl").read_text().partition("\n")[0])
    assert first["prompt"] == list(odd["prompt"][0])
    assert list(first) == [
        *("id", "model_a", "model_b", "prompt", "response_a", "response_b"),
        *("winner_model_a", "winner_model_b", "winner_tie", "weight"),
    ]


def test_cells_in_the_competitions_schema(arena, tmp_path):
    raw = pd.read_csv(arena / "train.csv", dtype=object, keep_default_na=False)
    pd.testing.assert_frame_equal(competition_cells(arena / "train.csv"), raw)
    for name in ("tabs", "arena 140k", "trl"):
        cells = competition_cells(make(name, tmp_path))
        cells.to_csv(tmp_path / "cells.csv", index=False)
        expected = read_pairs(tmp_path / "rows.dat")
        pd.testing.assert_frame_equal(read_pairs(tmp_path / "cells.csv"), expected)
