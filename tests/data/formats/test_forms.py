import json

import numpy as np
import pytest

from humanpref.data.formats.forms import Form, form_of, prevailing_form, read_turns

MESSAGES = [{"role": "user", "content": "p"}]


@pytest.mark.parametrize(
    ("cell", "form"),
    [
        ("Hello", Form.TEXT),
        ("[Hello", Form.TEXT),
        ('["a", 1]', Form.TEXT),
        ("['a', None]", Form.PYTHON),
        ("[{'role': 'user'}]", Form.PYTHON),
        ('{"a": 1}', Form.TEXT),
        (' ["a", null]', Form.JSON_TURNS),
        ("[]", Form.JSON_TURNS),
        (json.dumps(MESSAGES), Form.JSON_MESSAGES),
        (["a"], Form.TURNS),
        (("a", None), Form.TURNS),
        (np.array(["a"], dtype=object), Form.TURNS),
        (MESSAGES, Form.MESSAGES),
        (np.array(MESSAGES, dtype=object), Form.MESSAGES),
        (3, Form.TEXT),
        (" \n", Form.TEXT),
        ("", None),
        (" null ", None),
        (None, None),
        (float("nan"), None),
        ("[" * 100_000, Form.TEXT),
    ],
)
def test_the_form_of_a_cell(cell, form):
    assert form_of(cell) is form


def test_most_cells_decide():
    assert prevailing_form(["a", '["b"]', '["c"]', ""]) is Form.JSON_TURNS
    assert prevailing_form(["a", "b", '["c"]', None]) is Form.TEXT
    assert prevailing_form(["a", '["c"]']) is Form.JSON_TURNS
    assert prevailing_form(["", None]) is None


def test_turns_in_each_form():
    assert read_turns('["a", null]', Form.JSON_TURNS) == ("a", "")
    assert read_turns(["a", None], Form.TURNS) == ("a", "")
    assert read_turns("null", Form.TEXT) == ("null",)
    assert read_turns("[1]", Form.TEXT) == ("[1]",)
    assert read_turns("['a']", Form.TEXT) == ("['a']",)
    assert read_turns('["a"]', Form.TEXT, literal=True) == ('["a"]',)
    assert read_turns("\ud83d", Form.TEXT) == ("\N{REPLACEMENT CHARACTER}",)
    for form in (Form.JSON_TURNS, Form.TURNS, Form.TEXT):
        assert read_turns(None, form) == read_turns(float("nan"), form) == ()
    for form, cell, message in (
        (Form.TEXT, '["a"]', "expected a plain string as in most rows, got a JSON list of strings"),
        (Form.TEXT, ["a"], "expected a plain string, got list"),
        (Form.TURNS, "a", "expected a list of strings, got 'a'"),
        (Form.JSON_TURNS, ["a"], "expected a JSON list of strings, got list"),
        (Form.JSON_TURNS, "a", "not JSON"),
        (Form.PYTHON, "['a']", "expected JSON or a plain string, got a list in Python's notation"),
    ):
        with pytest.raises(ValueError, match=message):
            read_turns(cell, form)
