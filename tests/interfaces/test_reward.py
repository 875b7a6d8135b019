"""The reward function: who is judged against whom, what the rewards are, and what is refused."""

import numpy as np
import pytest

import humanpref
from humanpref.interfaces.judge import Judge
from humanpref.schema import SWAPPED_CLASSES, InputError

SHORT, LONG, LISTED = "So.", "Because it is so, as far as I know.", "Because:\n\n- one\n- two\n"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


class Recorded:
    """A judge's model that remembers its rows and gives fixed probabilities."""

    def __init__(self, probabilities=(0.6, 0.3, 0.1), swap_equivariant=True):
        self.probabilities, self.swap_equivariant = probabilities, swap_equivariant
        self.rows = []

    def predict_proba(self, pairs):
        texts = (pairs[column] for column in ("prompt", "response_a", "response_b"))
        self.rows += zip(*texts, strict=True)
        return np.tile(self.probabilities, (len(pairs), 1))


def wins(prompt, answer, other):
    own = humanpref.load().judge(prompt, answer, other)
    return own.p_a + own.p_tie / 2


def test_each_completion_is_judged_against_the_others_of_its_prompt():
    prompts = ["p", "q", "p", "q", "p"]
    completions = [SHORT, SHORT, LONG, LONG, LISTED]
    rewards = humanpref.reward()(prompts=prompts, completions=completions)
    assert all(type(reward) is float for reward in rewards)
    expected = [
        (wins("p", SHORT, LONG) + wins("p", SHORT, LISTED)) / 2,
        wins("q", SHORT, LONG),
        (wins("p", LONG, SHORT) + wins("p", LONG, LISTED)) / 2,
        wins("q", LONG, SHORT),
        (wins("p", LISTED, SHORT) + wins("p", LISTED, LONG)) / 2,
    ]
    assert rewards == pytest.approx(expected, abs=1e-12)
    # What one wins the others lose.
    assert rewards[0] + rewards[2] + rewards[4] == pytest.approx(1.5)


def test_each_pair_is_read_once_if_the_model_is_exact():
    model = Recorded()
    rewards = humanpref.reward(Judge(model))(["p"] * 3, ["x", "y", "z"])
    assert model.rows == [(("p",), (a,), (b,)) for a, b in ("xy", "xz", "yz")]
    assert rewards == pytest.approx([0.65, 0.5, 0.35])


def test_both_orders_are_averaged_otherwise():
    model = Recorded(swap_equivariant=False)
    rewards = humanpref.reward(Judge(model))(["p", "p"], ["x", "y"])
    assert model.rows == [(("p",), ("x",), ("y",)), (("p",), ("y",), ("x",))]
    assert rewards == pytest.approx([0.5, 0.5])  # the model prefers A, whatever it is
    mean = np.add(model.probabilities, np.take(model.probabilities, SWAPPED_CLASSES)) / 2
    assert rewards[0] == pytest.approx(mean[0] + mean[2] / 2)


def test_against_a_reference():
    judged = humanpref.reward(reference="best")
    columns = {"completion_ids": [[1], [2]], "trainer_state": None, "best": [LONG, LONG]}
    rewards = judged(prompts=["p", "q"], completions=[SHORT, LONG], **columns)
    assert rewards == pytest.approx([wins("p", SHORT, LONG), 0.5], abs=1e-12)


def test_messages_are_the_turns_of_a_conversation():
    model = Recorded()
    prompt = [
        {"role": "system", "content": "Be brief."},
        user("one"),
        assistant("first"),
        user([{"type": "text", "text": "two"}]),
    ]
    completions = [[assistant("x")], [assistant("y")]]
    humanpref.reward(Judge(model))([prompt, prompt], completions)
    assert model.rows == [(("Be brief.\n\none", "two"), ("first", "x"), ("first", "y"))]


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        ([], ((), ("x",))),
        ([user("a"), user("b")], (("a\n\nb",), ("x",))),
        ([assistant("hello"), user("a")], (("", "a"), ("hello", "x"))),
        ([user("a"), assistant("b"), assistant("c"), user("d")], (("a", "d"), ("b\n\nc", "x"))),
        # The completion goes on where the prompt has begun the answer.
        ([user("a"), assistant("He")], (("a",), ("Hex",))),
        ([user("a"), {"role": "user", "content": None}], (("a\n\n",), ("x",))),
    ],
)
def test_unusual_conversations(messages, turns):
    model = Recorded()
    humanpref.reward(Judge(model), reference="r")([messages], ["x"], r=["x"])
    assert model.rows == [(turns[0], turns[1], turns[1])]


def test_messages_and_strings_get_the_same_reward():
    judged = humanpref.reward()
    strings = judged(["p", "p"], [SHORT, LISTED])
    assert judged([[user("p")]] * 2, [[assistant(SHORT)], [assistant(LISTED)]]) == strings


def test_equal_completions_draw_and_nothing_is_nothing():
    judged = humanpref.reward()
    assert judged(["p"] * 3, [LONG] * 3) == [0.5] * 3
    assert judged([], []) == []


def test_what_cannot_be_judged_is_refused():
    judged, against = humanpref.reward(), humanpref.reward(reference="best")
    with pytest.raises(InputError, match="completion 2 is the only one for its prompt"):
        judged(["p", "q", "p"], [SHORT, SHORT, LONG])
    with pytest.raises(InputError, match="got 2 prompts and 1 completion"):
        judged(["p", "p"], [SHORT])
    with pytest.raises(InputError, match="column 'best': expected in the dataset, got none"):
        against(["p"], [SHORT])
    with pytest.raises(InputError, match="expected 1 reference answer, got 2"):
        against(["p"], [SHORT], best=[LONG, LONG])
    image = user([{"type": "image", "url": "…"}])
    with pytest.raises(
        InputError, match="reward: prompt 1: message 1: expected the content to be text"
    ):
        judged([[image]] * 2, [SHORT, LONG])
    with pytest.raises(
        InputError, match="reward: prompt 1: message 1: expected an object with role"
    ):
        judged([["p"]] * 2, [SHORT, LONG])
    with pytest.raises(InputError, match="prompt 1: expected a list of messages, got int"):
        judged([3, 3], [SHORT, LONG])


@pytest.mark.parametrize(
    ("prompts", "completions", "best", "message"),
    [
        (["p", None], ["x", "y"], ["x", "y"], "prompt 2: expected a text or .*, got nothing"),
        (["p", "p"], ["x", None], ["x", "y"], "completion 2: expected a text or .*, got nothing"),
        (["p", "p"], ["x", "y"], ["x", float("nan")], "column 'best': answer 2: .* got nothing"),
        (["p", "p"], ["x", "y"], ["x", [user("y")]], "'best': answer 2: expected a message of the"),
        (["p", "p"], ["x", []], ["x", "y"], "completion 2: expected a message of the assistant"),
        ("pp", ["x", "y"], ["x", "y"], "prompts: expected a list, got a string"),
        (["p", "p"], "xy", ["x", "y"], "completions: expected a list, got a string"),
        (["p", "p"], ["x", "y"], "xy", "column 'best': expected a list, got a string"),
    ],
)
def test_a_missing_text_is_not_an_empty_one(prompts, completions, best, message):
    for reference in (None, "best"):
        if reference is None and "best" in message:
            continue
        with pytest.raises(InputError, match=f"reward: .*{message}"):
            humanpref.reward(reference=reference)(prompts, completions, best=best)


def test_generators_and_arrays_are_columns():
    judged = humanpref.reward(reference="best")
    completions = [SHORT, LONG]
    expected = judged(["p", "q"], completions, best=[LISTED, LISTED])
    assert judged(iter(["p", "q"]), iter(completions), best=(x for x in [LISTED] * 2)) == expected
    assert judged(np.array(["p", "q"]), completions, best=np.array([LISTED] * 2)) == expected


def test_a_fitted_model_or_an_artifact_is_a_judge(pairs, tmp_path):
    from humanpref.data import labels_of
    from humanpref.models.prior import PriorModel

    model = PriorModel().fit(pairs, labels_of(pairs))
    model.save(tmp_path / "prior")
    for given in (model, tmp_path / "prior"):
        assert humanpref.reward(given)(["p", "p"], [SHORT, LONG]) == pytest.approx([0.5, 0.5])
