"""Two processes do what one does."""

import pytest

pytest.importorskip("torch")

from humanpref.kaggle.acceptance.processes import processes
from humanpref.kaggle.acceptance.setting import Setting


@pytest.mark.slow
def test_two_processes_train_folds_and_one_model(monkeypatch):
    for name in ("HUMANPREF_DRY_RUN", "HUMANPREF_DRY_RUN_GPUS", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "")  # restored afterwards
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    rows = list(processes(Setting(quick=True)))
    assert [row.passed for row in rows] == [True, True]
    assert all(row.measured.startswith("2 processes") for row in rows)
