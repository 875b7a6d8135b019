import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from humanpref import bar
from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model, sparse
from humanpref.text import features
from humanpref.text import processes as text_processes
from humanpref.text.processes import in_parts, processes_for


def doubled(items):
    return [2 * item for item in items]


@pytest.mark.slow
@pytest.mark.parametrize("items", [[], [1], list(range(50))])
def test_parts_are_in_order(items):
    for processes in (1, 2) if items else (1,):
        parts = in_parts(doubled, items, processes, "doubling")
        assert [made for part in parts for made in part] == doubled(items)


@pytest.mark.parametrize(("processes", "parts"), [(1, 3), (2, 9)])
def test_several_parts_tell_the_time_left(caplog, monkeypatch, processes, parts):
    monkeypatch.setattr(text_processes, "PART", 20)
    clock = SimpleNamespace(perf_counter=itertools.count(step=20).__next__)
    monkeypatch.setattr(bar, "time", clock)
    with caplog.at_level("INFO"):
        assert len(in_parts(doubled, range(50), processes, "doubling")) == parts
    assert len(caplog.messages) == parts
    assert caplog.messages[-2:] == [
        f"doubling: {parts - 1} of {parts} parts, 00:20 left",
        f"doubling: {parts} of {parts} parts, 00:00 left",
    ]


def test_the_required_joblib_has_what_is_used():
    """`return_as` and `idle_worker_timeout` came with joblib 1.3."""
    project = Path(__file__).parents[2]
    required = re.search(r'"joblib>=(\d+)\.(\d+)"', (project / "setup.py").read_text())
    image = re.search(r"^joblib==(\d+)\.(\d+)", (project / "wheels/image.txt").read_text(), re.M)
    for found in (required, image):
        assert tuple(map(int, found.groups())) >= (1, 3)


def test_how_many(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    assert [processes_for(characters, 100) for characters in (0, 99, 100, 250, 10_000)] == [
        1,
        1,
        2,
        3,
        3,
    ]


def test_models_do_not_depend_on_their_number(monkeypatch):
    words = np.random.default_rng(0).choice(
        ["red", "green", "blue", "grey", "café", "猫"], size=(3, 60, 12)
    )
    texts = {
        name: [(" ".join(row),) for row in rows]
        for name, rows in zip(("prompt", "response_a", "response_b"), words, strict=True)
    }
    pairs = pd.DataFrame({"id": [str(i) for i in range(60)], **texts})
    pairs = pairs.assign(
        winner_model_a=[1.0, 0, 0] * 20,
        winner_model_b=[0.0, 1, 0] * 20,
        winner_tie=[0.0, 0, 1] * 20,
    )

    def probabilities():
        return build_model(load_config("sparse")).fit(pairs, labels_of(pairs)).predict_proba(pairs)

    alone = probabilities()
    started = []
    for module in (features, sparse):
        monkeypatch.setattr(module, "PROCESS_CHARACTERS", 1)
        monkeypatch.setattr(
            module, "in_parts", lambda *call: started.append(call[2]) or in_parts(*call)
        )
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    np.testing.assert_array_equal(probabilities(), alone)
    assert started == [2] * len(started)
    assert len(started) == 5  # structure twice; A, B and the prompt at predicting
