from humanpref.text.format import PROMPT, A, B, Pair, Segment, dual, joint, pairs_in


def test_rounds_are_interleaved():
    side_a, side_b = dual(Pair(("p1", "p2"), ("a1", "a2"), ("b1", "b2")))
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
    (both,) = joint(Pair(("p1", "p2"), ("a1", "a2"), ("b1", "b2")))
    assert [segment.text for segment in both] == ["p1", "a1", "b1", "p2", "a2", "b2"]
    assert [segment.part for segment in both] == [PROMPT, A, B] * 2


def test_missing_turns_are_empty():
    side_a, side_b = dual(Pair(("p1", "p2"), ("a1",), ()))
    assert [segment.text for segment in side_a] == ["p1", "a1", "p2", ""]
    assert [segment.text for segment in side_b] == ["p1", "", "p2", ""]
    assert joint(Pair((), (), ())) == [(Segment(PROMPT, ""), Segment(A, ""), Segment(B, ""))]


def test_exchanging_the_answers_exchanges_the_branches():
    side_a, side_b = dual(Pair(("p",), ("x",), ("y",)))
    assert dual(Pair(("p",), ("y",), ("x",))) == [side_b, side_a]


def test_a_frame_is_read_row_by_row():
    frame = {"prompt": [("p",), ("q",)], "response_a": [("x",), ()], "response_b": [(), ("y",)]}
    assert pairs_in(frame) == [Pair(("p",), ("x",), ()), Pair(("q",), (), ("y",))]
    assert pairs_in(frame)[0].swapped() == Pair(("p",), (), ("x",))
