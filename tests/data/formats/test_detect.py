import pytest

from humanpref.data.formats.detect import format_of, label_reader, looks_like_wsdm, text_columns
from humanpref.schema import FORMATS, LABEL_COLUMNS, InputError

RESPONSES = ("prompt", "response_a", "response_b")
CONVERSATIONS = ("conversation_a", "conversation_b")
PAIR = ("chosen", "rejected")


def test_the_columns_decide():
    assert text_columns(["winner", *RESPONSES], "x") == RESPONSES
    assert text_columns([*CONVERSATIONS, "full_conversation"], "x") == CONVERSATIONS
    assert text_columns(["rejected", "chosen"], "x") == PAIR
    assert text_columns(["rejected", "chosen", "prompt"], "x") == ("prompt", *PAIR)
    both = [*RESPONSES, *PAIR]
    assert text_columns(both, "x", forced="chosen-rejected") == ("prompt", *PAIR)
    assert text_columns(both, "x", lenient=True) == RESPONSES


@pytest.mark.parametrize(
    ("header", "forced", "message"),
    [
        ([*RESPONSES, *PAIR], None, r"x: has the columns of several formats, competition and chos"),
        (["text"], None, r"x: expected the columns prompt, .*; or conver.*; or chosen.*got 'text'"),
        (["chosen", "id"], None, r"missing column 'rejected'; the columns are 'chosen', 'id'"),
        (RESPONSES, "conversations", "missing column 'conversation_a', 'conversation_b'"),
        (PAIR, "plain", "missing column 'prompt', 'response_a', 'response_b'"),
        (PAIR, "odd", r"format 'odd': expected one of competition, plain"),
    ],
)
def test_columns_in_doubt(header, forced, message):
    with pytest.raises(InputError, match=message):
        text_columns(header, "x", forced)


MESSAGES = [{"role": "user", "content": "p"}]


@pytest.mark.parametrize(
    ("columns", "head", "forced", "name", "description"),
    [
        (RESPONSES, [['["p"]', '["a"]', "b"]], None, "competition", "a JSON list of strings"),
        (RESPONSES, [["p", "a", '["b"]']], None, "plain", "a plain string"),
        (RESPONSES, [[["p"], ["a"], None]], None, "competition", "a list of strings"),
        (RESPONSES, [[MESSAGES] * 3], None, "messages", "a list of messages"),
        (RESPONSES, [["", "", "null"]], None, "competition", "a JSON list of strings"),
        (RESPONSES, [], None, "competition", "a JSON list of strings"),
        (RESPONSES, [['["p"]'] * 3], "plain", "plain", "a plain string"),
        (RESPONSES, [["p"] * 3], "wsdm", "wsdm", "a plain string"),
        (RESPONSES, [["p"] * 3], "competition", "competition", "a JSON list of strings"),
        (RESPONSES, [["p"] * 3], "messages", "messages", "a list of messages"),
        (CONVERSATIONS, [[MESSAGES] * 2], None, "conversations", "a list of messages"),
        (
            (*CONVERSATIONS, "turn"),
            [[MESSAGES] * 2 + [1]],
            None,
            "conversations",
            "a list of messages, up to the turn in column 'turn'",
        ),
        (PAIR, [["p", "q"]], None, "chosen-rejected", "a plain string, the prompt is the common"),
        (("prompt", *PAIR), [["p", "q", "r"]], None, "chosen-rejected", "a plain string"),
        (("prompt", *PAIR), [["p", MESSAGES, MESSAGES]], None, "chosen-rejected", "a list of mess"),
    ],
)
def test_the_first_rows_decide_the_form(columns, head, forced, name, description):
    format = format_of(columns, head, forced)
    assert format.name == name
    assert name in FORMATS
    assert format.description.startswith(description)
    assert format.columns == columns


def test_labels():
    assert label_reader(["winner"], "x", None).columns == ("winner",)
    assert label_reader(LABEL_COLUMNS, "x", None).ties
    assert not label_reader(LABEL_COLUMNS[:2], "x", True).ties
    assert not label_reader(["winner"], "x", True, "wsdm").ties
    assert label_reader(["id"], "x", None) is None
    for header, message in (
        (
            ["winner", *LABEL_COLUMNS],
            r"x: has labels in the column 'winner' and in 'winner_model_a'",
        ),
        (["id"], "x: missing column 'winner_model_a', 'winner_model_b', 'winner_tie' .or 'winner'"),
        (["id"], "; the columns are 'id'; a file without labels, like a test file, can only be "),
        (["winner_tie"], r"x: missing column 'winner_model_a', 'winner_model_b' .*'winner_tie'$"),
    ):
        with pytest.raises(InputError, match=message):
            label_reader(header, "x", True)


def test_wsdm_cup():
    assert looks_like_wsdm("plain", ["winner", "language"])
    assert not looks_like_wsdm("plain", ["winner"])
    assert not looks_like_wsdm("competition", ["winner", "language"])
