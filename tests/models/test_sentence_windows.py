"""Windows of token ids: even, within the limit, and each with the instruction before it."""

import numpy as np
import pytest

pytest.importorskip("torch")

from transformers import AutoTokenizer

from humanpref.models.sentence_windows import Passage, Splitter, split
from humanpref.schema import InputError

from ..shrunken import qwen_tokenizer

INSTRUCTION = "Find what answers this.\nQuery:"


@pytest.fixture(scope="module")
def qwen(pairs):
    return qwen_tokenizer([turn for turns in pairs["prompt"] for turn in turns])


def test_windows_are_even_and_the_head_and_the_tail_stay():
    assert split([], 10, 4) == []
    assert [len(piece) for piece in split(np.arange(10), 10, 4)] == [10]
    assert [len(piece) for piece in split(np.arange(11), 10, 4)] == [5, 6]
    np.testing.assert_array_equal(np.concatenate(split(np.arange(37), 10, 4)), np.arange(37))
    pieces = split(np.arange(1_000), 10, 4)
    expected = [np.arange(start, start + 10) for start in (0, 10, 980, 990)]
    np.testing.assert_array_equal(pieces, expected)


def test_every_window_has_the_instruction_and_counts_its_tokens(qwen):
    instruction = qwen(INSTRUCTION, add_special_tokens=False).input_ids
    end, room = qwen.pad_token_id, 12
    longest = len(instruction) + room + 1
    splitter = Splitter(qwen, longest, False, [INSTRUCTION, ""])
    text = "What is the tallest mountain? " * 20
    rows = splitter.rows([Passage(text, INSTRUCTION), Passage(text)], 3)
    whole = qwen(INSTRUCTION + text, add_special_tokens=False).input_ids
    # ":What" is one token, so that the first window has the instruction without its colon.
    assert whole[: len(instruction)] != instruction
    assert qwen.convert_ids_to_tokens(whole[len(instruction) - 1]) == ":What"
    first, second, third, *plain = rows.ids
    own = whole[len(instruction) - 1 :]
    assert first == [*whole[: len(instruction) - 1 + room], end]
    assert second == [*instruction, *own[room : room + 6], *own[-18:-12], end]
    assert third == [*instruction, *own[-12:], end]
    assert max(map(len, rows.ids)) == longest
    assert rows.counts == [[12, 12, 12], [len(ids) - 1 for ids in plain]]
    assert sum(rows.counts[1]) == 3 * (longest - 1)
    np.testing.assert_array_equal(rows.leads, [len(instruction)] * 3 + [0] * len(plain))


def test_special_tokens_before_a_text_belong_to_the_instruction(sentence_encoder):
    tokenizer = AutoTokenizer.from_pretrained(sentence_encoder)
    splitter = Splitter(tokenizer, 64, True, ["FIND IT:"])
    assert splitter.before == [tokenizer.cls_token_id]
    assert splitter.after == [tokenizer.sep_token_id]
    (ids,), _, (lead,) = splitter.rows([Passage("What?", "FIND IT:")], 1)
    assert ids == tokenizer("find it:what?").input_ids
    assert lead == len(tokenizer("find it:").input_ids) - 1


def test_a_text_without_tokens_has_no_window(qwen):
    splitter = Splitter(qwen, 64, False, [INSTRUCTION])
    rows = splitter.rows([Passage("", INSTRUCTION), Passage("b", INSTRUCTION)], 4)
    assert rows.counts == [[], [1]]
    assert len(rows.ids) == len(rows.leads) == 1


def test_an_instruction_that_cannot_be_used(qwen):
    with pytest.raises(InputError, match=r"expected plain text, but it contains .*special tokens"):
        Splitter(qwen, 64, False, ["Find it <|im_end|>"])
    length = len(qwen(INSTRUCTION).input_ids) + 7
    with pytest.raises(InputError, match=r"option model\.max_length: .* leaves 7 of the"):
        Splitter(qwen, length, False, [INSTRUCTION])
    Splitter(qwen, length + 1, False, [INSTRUCTION])
