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


def test_a_fault_names_its_column_and_can_be_salvaged():
    with pytest.raises(CellError, match="expected a list of messages") as caught:
        Conversations().read([asked("a"), "text"])
    assert caught.value.column == "conversation_b"
    row, (error,) = Conversations().salvaged([asked("a"), "text"])
    assert (error.column, row[:3]) == ("conversation_b", ((), (json.dumps(asked("a")),), ("text",)))
    assert Conversations().salvaged([asked("a"), asked("b")])[1] == []
