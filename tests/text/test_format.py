import pandas as pd

from humanpref.text.format import PROMPT, A, B, Pair, Segment, answered, dual, joint, pairs_in
from humanpref.text.tokens import SPECIAL

PAIR = Pair(("p1", "p2"), ("a1", "a2"), ("b1", "b2"))


def test_rounds_are_interleaved():
    side_a, side_b = dual(PAIR)
    assert side_a == (
        Segment(PROMPT, "p1"),
        Segment(A, "a1"),
        Segment(PROMPT, "p2"),
        Segment(A, "a2"),
    )
    assert side_b == (
        Segment(PROMPT, "p1"),
        Segment(A, "b1"),
        Segment(PROMPT, "p2"),
        Segment(A, "b2"),
    )
    assert answered(PAIR) == side_a
    (both,) = joint(PAIR)
    assert [segment.text for segment in both] == ["p1", "a1", "b1", "p2", "a2", "b2"]
    assert [segment.part for segment in both] == [PROMPT, A, B] * 2


def test_missing_turns_are_empty():
    side_a, side_b = dual(Pair(("p1", "p2"), ("a1",), ()))
    assert [segment.text for segment in side_a] == ["p1", "a1", "p2", ""]
    assert [segment.text for segment in side_b] == ["p1", "", "p2", ""]
    assert joint(Pair((), (), ())) == [(Segment(PROMPT, ""), Segment(A, ""), Segment(B, ""))]


def test_swapping_exchanges_the_responses_alone():
    assert PAIR.swapped() == Pair(("p1", "p2"), ("b1", "b2"), ("a1", "a2"))
    assert dual(PAIR.swapped()) == dual(PAIR)[::-1]


def test_the_rows_of_a_frame():
    frame = pd.DataFrame(
        {"response_b": [("b",), ()], "prompt": [("p",), ("q",)], "response_a": [("a",), ("c",)]}
    )
    assert pairs_in(frame) == [Pair(("p",), ("a",), ("b",)), Pair(("q",), ("c",), ())]


def test_the_parts_differ_from_each_other_and_from_special_tokens():
    assert len({SPECIAL, PROMPT, A, B}) == 4
