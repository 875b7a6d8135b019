import pytest

from humanpref.data.formats.forms import Form
from humanpref.data.formats.labels import Winner
from humanpref.data.formats.responses import Responses
from humanpref.data.rows import Fault, Plan, RowParser
from humanpref.data.tables import BadRow, Table
from humanpref.schema import TEXT_COLUMNS, InputError


def parser(lenient=False, keep_faults=False, form=Form.JSON_TURNS):
    table = Table("rows.csv", "CSV", [], iter)
    format = Responses("competition", form)
    models = ("model_a", "model_b")
    plan = Plan(TEXT_COLUMNS, ("id",), Winner(True), False, models, ("weight",), format)
    assert plan.winners == ("winner_model_a", "winner_model_b", "winner_tie")
    assert plan.columns == (*TEXT_COLUMNS, "id", "winner", *models, "weight")
    return RowParser(table, plan, lenient, keep_faults)


GOOD = ('["p"]', '["a"]', '["b"]', 7, "tie", "m", None, "2")


def test_a_row_in_the_order_of_the_frame():
    expected = ["7", ("p",), ("a",), ("b",), "m", "", 0, 0, 1, 2]
    assert parser().parse(1, GOOD) == expected


@pytest.mark.parametrize(
    ("place", "cell", "kind", "message"),
    [
        (None, BadRow("no cells"), "fields", "row 2: no cells"),
        (3, None, "id", "row 2: column 'id': expected a text or a number, got nothing"),
        (3, 7, "id", r"row 2 \(id '7'\): duplicate id, first seen in row 1"),
        (0, "p", "text", r"row 2 \(id '8'\): column 'prompt': not JSON.* \(format competition: "),
        (4, "odd", "label", r"row 2 \(id '8'\): column 'winner': expected model_a"),
        (7, "-1", "weight", r"row 2 \(id '8'\): column 'weight': expected 0, or a number"),
    ],
)
def test_a_fault_is_raised_or_kept(place, cell, kind, message):
    row = [*GOOD[:3], 8, *GOOD[4:]]
    if place is None:
        row = cell
    else:
        row[place] = cell
    strict, keeping = parser(), parser(keep_faults=True)
    strict.parse(1, GOOD)
    with pytest.raises(InputError, match=rf"rows\.csv: {message}"):
        strict.parse(2, row)
    keeping.parse(1, GOOD)
    assert keeping.parse(2, row) is None
    (fault,) = keeping.faults
    assert (fault.row, fault.kind) == (2, kind)
    assert keeping.at(fault).startswith("rows.csv: row 2")


def test_a_malformed_text_is_taken_as_one_turn_in_lenient_parsing(caplog):
    assert parser(lenient=True).parse(1, ("p \ud83d", *GOOD[1:]))[1] == (
        "p \N{REPLACEMENT CHARACTER}",
    )
    assert "rows.csv: row 1 (id '7'): column 'prompt': not JSON" in caplog.text
    keeping = parser(lenient=True, keep_faults=True)
    keeping.parse(1, ("p", *GOOD[1:]))
    assert [fault.kind for fault in keeping.faults] == ["text"]


def test_repairs_are_kept_as_faults_of_the_cell_as_it_is():
    keeping = parser(keep_faults=True)
    keeping.parse(1, ('["p", null]', "null", '["\\ud83d"]', *GOOD[3:5], "m\ud83d", None, 1))
    assert [(fault.kind, fault.fault) for fault in keeping.faults] == [
        ("null", "column 'prompt': turn 2 is null"),
        ("null", "column 'response_a': null or empty, not a list of turns"),
        ("surrogate", "column 'response_b': a lone surrogate (half a character)"),
        ("surrogate", "column 'model_a': a lone surrogate (half a character)"),
    ]
    plain = parser(keep_faults=True, form=Form.TEXT)
    plain.parse(1, ("null", "[", "", *GOOD[3:]))
    assert plain.faults == []


def test_a_fault_as_a_line():
    assert Fault(3, "", "id", "odd").at("x") == "x: row 3: odd"
    assert Fault(3, "7", "id", "odd").at("x") == "x: row 3 (id '7'): odd"
