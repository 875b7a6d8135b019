import numpy as np
import pytest

from humanpref.evaluation.intervals import ratio_interval, share_interval


def test_shares_by_hand():
    assert [float(end) for end in share_interval(8, 10)] == pytest.approx(
        [0.4902, 0.9433], abs=1e-4
    )
    assert share_interval(0, 5)[0] == 0
    assert share_interval(5, 5)[1] == 1
    assert np.isnan(share_interval(0, 0)).all()


def test_ratios_by_hand():
    assert [float(end) for end in ratio_interval(10, 5)] == pytest.approx(
        [0.6805, 5.3560], abs=1e-3
    )
    low, high = ratio_interval(0, 3)
    assert 0 < low < 1 / 7 < high
