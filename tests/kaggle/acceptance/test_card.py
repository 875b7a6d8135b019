"""The device's own figures."""

import time

import pytest

pytest.importorskip("torch")

from humanpref.kaggle.acceptance import card
from humanpref.kaggle.acceptance.setting import Setting
from humanpref.training.roofline import Device


def test_the_fastest_call_counts_and_the_first_does_not():
    pauses = iter([0.0, 0.05, 0.02, 0.05])
    assert 0.02 <= card.fastest(lambda: time.sleep(next(pauses)), rounds=3) < 0.05


def test_the_row_names_the_device(monkeypatch):
    (row,) = card.check(Setting(quick=True))
    assert row.passed is None
    assert row.case.startswith("CPU")
    assert "TFLOP/s" in row.measured
    assert "GB/s" in row.measured
    # In full size there has to be a GPU.
    monkeypatch.setattr(card, "measure", lambda quick: Device(1e12, 1e9, 1e-6, 4))
    (row,) = card.check(Setting(quick=False))
    assert row.passed is False
