"""The competitions agree with the package's own columns, and a submission says what it should."""

import doctest

import pytest

from humanpref.data.submission import HEADER
from humanpref.kaggle import competitions
from humanpref.kaggle.competitions import COMPETITIONS, DEFAULT, WINNERS, WSDM
from humanpref.schema import FORMATS, ID, MODEL_COLUMNS


def test_the_competitions_are_in_the_packages_words():
    assert WINNERS == MODEL_COLUMNS
    assert COMPETITIONS[DEFAULT].submission == HEADER
    for slug, competition in COMPETITIONS.items():
        assert competition.slug == slug
        assert competition.submission[0] == ID
        assert competition.format in FORMATS
        assert sum(competition.even) == pytest.approx(1)
        assert (competition.even[2] > 0) == (competition.classes == 3)


def test_cells_of_a_row():
    assert COMPETITIONS[WSDM].cells([0.5, 0.5, 0.0]) == ["model_a"]
    assert COMPETITIONS[WSDM].cells([0.3, 0.31, 0.39]) == ["model_b"]
    assert COMPETITIONS[DEFAULT].cells([0.3, 0.3, 0.4]) == [0.3, 0.3, 0.4]


def test_the_examples_hold():
    found = doctest.testmod(competitions)
    assert (found.attempted, found.failed) == (1, 0)
