import json

import pytest

from humanpref.data.formats.conversations import Conversations
from humanpref.data.formats.forms import Form
from humanpref.data.formats.row import CellError


def asked(answer):
    return [{"role": "user", "content": "p"}, {"role": "assistant", "content": answer}]


def test_a_row_of_messages_or_of_json():
    expected = (("p",), ("a",), ("b",))
    assert Conversations().read([asked("a"), asked("b")])[:3] == expected
    coded = Conversations(Form.JSON_MESSAGES)
    assert coded.read([json.dumps(asked("a")), json.dumps(asked("b"))])[:3] == expected


@pytest.mark.parametrize(("turn", "turns"), [(1, 1), ("1", 1), (1.0, 1), ("2", 2)])
def test_only_the_turns_that_were_judged_are_read(turn, turns):
    """As in MT-bench, whose conversations hold both turns also where only the first was judged."""
    row = Conversations(turn=True).read([asked("a") + asked("c"), asked("b") + asked("d"), turn])
    assert row[:3] == (("p", "p")[:turns], ("a", "c")[:turns], ("b", "d")[:turns])
    assert row.lost == ("" if turns == 2 else "turns after the judged one")


@pytest.mark.parametrize("turn", [0, 3, -1, 1.5, True, None, "", "first"])
def test_a_turn_that_the_conversations_do_not_have(turn):
    cells = [asked("a") + asked("c"), asked("b") + asked("d"), turn]
    with pytest.raises(CellError, match="expected a number of turns from 1 to 2, got") as caught:
        Conversations(turn=True).read(cells)
    assert caught.value.column == "turn"


def test_a_fault_names_its_column_and_can_be_salvaged():
    with pytest.raises(CellError, match="expected a list of messages") as caught:
        Conversations().read([asked("a"), "text"])
    assert caught.value.column == "conversation_b"
    row, (error,) = Conversations().salvaged([asked("a"), "text"])
    assert (error.column, row[:3]) == ("conversation_b", ((), (json.dumps(asked("a")),), ("text",)))
    assert Conversations().salvaged([asked("a"), asked("b")])[1] == []
