import json

import pytest

from humanpref.data.formats.forms import Form
from humanpref.data.formats.messages import Message, pair_of, read_messages
from humanpref.data.formats.row import CellError

ASK, SYSTEM = Message("user", "p"), Message("system", "Be brief.")
A, B = Message("assistant", "a"), Message("assistant", "b")
COLUMNS = ("first", "second")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        (None, ""),
        ("\ud83d", "\N{REPLACEMENT CHARACTER}"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "text", "text": None, "image": None}], ""),
        ([], ""),
    ],
)
def test_the_content_of_a_message(content, text):
    message = {"role": "user", "content": content, "num_tokens": 3}
    assert read_messages([message]) == [Message("user", text)]
    coded = json.dumps([message])
    assert read_messages(coded, Form.JSON_MESSAGES) == [Message("user", text)]


@pytest.mark.parametrize("cell", [None, float("nan"), []])
def test_no_messages(cell):
    assert read_messages(cell) == []
    assert read_messages("", Form.JSON_MESSAGES) == read_messages("null", Form.JSON_MESSAGES) == []


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[{]", "not JSON, expected a JSON list of messages"),
        ("{}", "expected a JSON list of messages, got dict"),
        ('["a"]', "message 1: expected an object with role and content, got 'a'"),
        ('[{"content": "a"}]', "message 1: expected an object with role"),
        ('[{"role": "user", "content": 3}]', "message 1: expected the content to be text, got int"),
        (
            '[{"role": "user", "content": [{"type": "image", "image": "x"}]}]',
            "message 1: expected the content to be text, got dict .*image",
        ),
    ],
)
def test_what_is_not_a_list_of_messages(cell, message):
    with pytest.raises(ValueError, match=message):
        read_messages(cell, Form.JSON_MESSAGES)


def test_a_pair_of_conversations():
    row = pair_of([ASK, A, ASK, B], [ASK, B, ASK, A], COLUMNS)
    assert row == (("p", "p"), ("a", "b"), ("b", "a"), None, "")
    row = pair_of([SYSTEM, ASK, A], [SYSTEM, ASK, B], COLUMNS)
    assert row == (("Be brief.\n\np",), ("a",), ("b",), None, "system messages")
    assert pair_of([], [], COLUMNS)[:3] == ((), (), ())


@pytest.mark.parametrize(
    ("first", "second", "column", "message"),
    [
        ([ASK, A], [Message("user", "q"), B], "second", "message 1 of the user differs"),
        ([SYSTEM, ASK, A], [ASK, B], "second", "what the user or the system says differs"),
        ([ASK, A, ASK, A], [ASK, B], "second", "what the user or the system says differs"),
        ([ASK, A], [SYSTEM, B], "second", "message 2: expected role 'user', got 'assistant'"),
        ([ASK, ASK, A], [ASK, B], "first", "message 2: expected role 'assistant', got 'user'"),
        ([ASK, Message("tool", "x")], [ASK, B], "first", "got 'tool'"),
        ([ASK], [ASK, B], "first", "ends with a message of the user, expected an answer"),
    ],
)
def test_conversations_that_are_no_pair(first, second, column, message):
    with pytest.raises(CellError, match=message) as caught:
        pair_of(first, second, COLUMNS)
    assert caught.value.column == column
