"""A training that differs from the CPU's, or from an uninterrupted one, fails."""

import pytest

pytest.importorskip("peft")

from humanpref.kaggle.acceptance import correctness
from humanpref.kaggle.acceptance.setting import Setting
from humanpref.training import loop

QUICK = Setting(quick=True)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(correctness, "FAMILIES", ("encoder",))


def test_half_precision_is_close_to_the_cpu_but_not_equal(encoder, monkeypatch):
    (row,) = correctness.parity(QUICK)
    assert row.passed
    assert row.case == "encoder, bf16"
    monkeypatch.setitem(correctness.SHARE, "bf16", 1e-6)
    (row,) = correctness.parity(QUICK)
    assert row.passed is False


@pytest.mark.slow
def test_a_resumed_training_that_forgets_fails(encoder, monkeypatch):
    (row,) = correctness.resume(QUICK)
    assert row.passed
    assert row.measured.startswith("stopped after 1 of 6 steps")
    monkeypatch.setattr(loop, "load_learned", lambda *_: None)
    (row,) = correctness.resume(QUICK)
    assert row.passed is False


@pytest.mark.slow
def test_given_weights_are_checked_too(encoder, tmp_path):
    pairs = correctness.some_pairs(12)
    folder = tmp_path / "mine"
    correctness.save_small(folder, "encoder", correctness.texts_of(pairs), quick=True, dropout=0.1)
    rows = list(correctness.parity(Setting(quick=True, weights=(folder,))))
    assert [row.case for row in rows] == ["encoder, bf16", "encoder mine, bf16"]
