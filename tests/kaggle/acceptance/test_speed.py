"""Times and memory are held against the estimates, where they are judged."""

import pytest

pytest.importorskip("peft")

from humanpref.kaggle.acceptance import speed
from humanpref.kaggle.acceptance.setting import Setting

CHECKS = ["memory", "training", "inference"]


@pytest.mark.slow
def test_nothing_is_judged_in_a_quick_run():
    rows = list(speed.speed(Setting(quick=True), "deberta-best"))
    assert [row.check for row in rows] == CHECKS
    assert [row.passed for row in rows] == [None] * 3
    assert all("tokens/s" in row.measured for row in rows[1:])


@pytest.mark.parametrize(("factor", "passed"), [(1e6, True), (1.0, False)])
def test_the_factor_decides(monkeypatch, factor, passed):
    monkeypatch.setattr(Setting, "judged", True)
    monkeypatch.setattr(speed, "FACTOR", factor)
    rows = list(speed.speed(Setting(quick=True), "llama-3.2-1b-lora"))
    # On the CPU the peak is that of the process, far above the estimate.
    assert [row.passed for row in rows] == [False, passed, passed]
