import pytest

from humanpref.data.formats.forms import Form
from humanpref.data.formats.responses import Responses
from humanpref.data.formats.row import CellError


def said(role, text):
    return [{"role": role, "content": text}]


@pytest.mark.parametrize(
    ("form", "cells"),
    [
        (Form.JSON_TURNS, ['["p"]', '["a"]', '["b"]']),
        (Form.TURNS, [["p"], ("a",), ["b"]]),
        (Form.TEXT, ["p", "a", "b"]),
        (Form.MESSAGES, [said("user", "p"), said("assistant", "a"), said("assistant", "b")]),
    ],
)
def test_the_same_row_in_each_form(form, cells):
    assert Responses("any", form).read(cells)[:3] == (("p",), ("a",), ("b",))


def test_a_fault_names_its_column_and_only_that_cell_is_taken_as_plain_text():
    format = Responses("competition", Form.JSON_TURNS)
    with pytest.raises(CellError, match="not JSON") as caught:
        format.read(['["p"]', "a", "b"])
    assert caught.value.column == "response_a"
    row, errors = format.salvaged(['["p"]', "a", None])
    assert row[:3] == (("p",), ("a",), ())
    assert [error.column for error in errors] == ["response_a"]
