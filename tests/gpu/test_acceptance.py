"""The checks of `humanpref.kaggle.acceptance` run on a GPU, though nothing can be timed here."""

import pytest

from humanpref.kaggle.acceptance.runner import CHECKS, attempt
from humanpref.kaggle.acceptance.setting import Setting

from .runs import slow_but

OF_ONE_GPU = [name for name in CHECKS if name != "two processes"]


@pytest.mark.parametrize("name", [slow_but(name, "device") for name in OF_ONE_GPU])
def test_every_check_runs_in_fp16(gpu, name):
    rows = list(attempt(name, CHECKS[name][0], Setting(quick=True)))
    assert rows
    assert [row for row in rows if row.passed is False] == []
    if name == "parity with the CPU":
        assert [row.case for row in rows] == [
            f"{family}, fp16" for family in ("encoder", "decoder", "dpo")
        ]
    if name == "device":
        assert rows[0].case == "a played GPU"
        assert "fp16 by default" in rows[0].expected


def test_two_processes_need_two_gpus():
    (row,) = attempt("two processes", CHECKS["two processes"][0], Setting(quick=True))
    assert (row.passed, row.measured) == (None, "there is one GPU")
