"""The verdict on what a run takes."""

from dataclasses import replace

from humanpref.runs.demand import Estimate


def test_what_does_not_fit_is_named():
    fits = Estimate("x", gib=3.0, train={1: 2.0, 2: 1.5}, predict=(1.0, 2.0))
    assert fits.verdict() == (
        "estimate: training 3.0 GiB, 1.5-3 h on two T4, inference 1-2 h (both orders 2-4): fits"
    )
    assert fits.impossible == ""
    doubtful = {
        "training runs out of memory": {"gib": 14.1},
        "training runs out of time": {"train": {1: 6.1}},
        "inference reads shortened inputs": {"predict": (4.6, 9.2)},
        "only part of the rows is read in both orders": {"predict": (3.0, 4.6)},
    }
    for doubt, values in doubtful.items():
        assert replace(fits, **values).verdict().endswith(f": may not fit: {doubt}")
    assert replace(fits, train={1: 12.1, 2: 12.2}).impossible.startswith("training takes 12-24 h")
    assert replace(fits, least_gib=14.1).impossible == "training needs 14.1 GiB, and a T4 has 14"
