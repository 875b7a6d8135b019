"""The sparse model: the example of its documentation."""

import doctest

from humanpref.models import sparse


def test_the_example_holds():
    found = doctest.testmod(sparse)
    assert found.attempted >= 3
    assert found.failed == 0
