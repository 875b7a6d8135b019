import numpy as np
import pytest

from humanpref.models.scratch import train_tokenizer
from humanpref.text.format import PROMPT, A, B, Pair, dual, joint
from humanpref.text.tokens import allocate, cut_middle, template_of, tokenise


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["alpha beta gamma delta epsilon zeta eta theta iota kappa"] * 5, 400)


def words(tokenizer, tokens):
    return [token.lstrip("Ġ") for token in tokenizer.convert_ids_to_tokens(tokens.ids.tolist())]


def text(word, count):
    return " ".join([word] * count)


def test_exact_tokens(tokenizer):
    made = tokenise(dual(Pair(("alpha beta",), ("gamma",), ("delta",))), tokenizer, 512, 0.3)
    assert words(tokenizer, made[0]) == ["[CLS]", "alpha", "beta", "[SEP]", "gamma", "[SEP]"]
    assert words(tokenizer, made[1]) == ["[CLS]", "alpha", "beta", "[SEP]", "delta", "[SEP]"]
    assert made[0].types.tolist() == [0, 0, 0, 0, 1, 1]
    assert made[0].parts.tolist() == [0, PROMPT, PROMPT, 0, A, 0]
    assert not made[0].cut


def test_joint_and_several_rounds(tokenizer):
    (made,) = tokenise(
        joint(Pair(("alpha", "beta"), ("gamma", "delta"), ("eta", "zeta"))), tokenizer, 512, 0.3
    )
    rounds = "[CLS] alpha [SEP] gamma [SEP] eta [SEP] beta [SEP] delta [SEP] zeta [SEP]"
    assert words(tokenizer, made) == rounds.split()
    assert made.parts.tolist() == [0, PROMPT, 0, A, 0, B, 0, PROMPT, 0, A, 0, B, 0]
    assert made.types.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]


def test_the_template_is_the_tokenizers_own(tokenizer):
    template = template_of(tokenizer)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert (template.prefix, template.suffix, template.types) == ([cls], [sep], (0, 1))
    assert template.before == {PROMPT: [sep], A: [sep], B: [sep]}
    sequence = joint(Pair(("p", "p"), ("a", "a"), ("b", "b")))[0]
    assert [template.around() + template.between(sequence[:n]) for n in (1, 2, 6)] == [2, 3, 7]


def test_a_text_that_spells_a_special_token_is_text(tokenizer):
    made = tokenise(dual(Pair(("alpha [SEP] [PAD]",), ("[CLS]",), ("",))), tokenizer, 512, 0.3)[0]
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id]
    assert [i for i in made.ids if i in tokenizer.all_special_ids] == special
    assert tokenizer.decode(made.ids[made.parts == PROMPT]).strip() == "alpha [SEP] [PAD]"


@pytest.mark.parametrize(
    ("needs", "shares", "room", "given"),
    [
        ([10, 20], [0.3, 0.7], 100, [10, 20]),  # all fit
        ([90, 10], [0.3, 0.7], 100, [90, 10]),  # the room is just enough
        ([200, 10], [0.3, 0.7], 100, [90, 10]),  # what one does not need the other takes
        ([10, 200], [0.3, 0.7], 100, [10, 90]),
        ([200, 200], [0.3, 0.7], 100, [30, 70]),  # all want more: the shares
        ([30, 200], [0.3, 0.7], 100, [30, 70]),
        ([0, 200], [0.3, 0.7], 100, [0, 100]),
        ([200, 35, 200], [0.2, 0.4, 0.4], 100, [22, 35, 43]),  # 65 left at 1:2, whole tokens
        ([5, 5], [1, 1], 0, [0, 0]),
        ([5, 5], [1, 1], -3, [0, 0]),
        ([5, 5, 5], [1, 1, 1], 2, [1, 1, 0]),
    ],
)
def test_allocation(needs, shares, room, given):
    assert allocate(needs, shares, room) == given


def test_allocation_uses_all_the_room_and_no_more():
    rng = np.random.default_rng(0)
    for _ in range(300):
        needs = rng.integers(0, 50, size=rng.integers(1, 6)).tolist()
        shares, room = rng.uniform(0.1, 1, size=len(needs)).tolist(), int(rng.integers(0, 120))
        given = allocate(needs, shares, room)
        assert all(0 <= got <= need for got, need in zip(given, needs, strict=True))
        assert sum(given) == min(room, sum(needs))


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        (6, [1, 2, 3, 4, 5]),
        (5, [1, 2, 3, 4, 5]),
        (4, [1, 2, 4, 5]),
        (3, [1, 2, 5]),
        (2, [1, 5]),
        (1, [1]),
        (0, []),
    ],
)
def test_cutting_keeps_both_ends(limit, kept):
    assert cut_middle(np.arange(1, 6), limit).tolist() == kept


def test_the_response_survives_a_long_prompt_to_the_token(tokenizer):
    row = dual(Pair((text("alpha", 500),), (text("beta", 500) + " gamma",), ("",)))
    made = tokenise(row, tokenizer, 23, 0.3)[0]
    assert words(tokenizer, made) == ["[CLS]"] + ["alpha"] * 6 + ["[SEP]"] + ["beta"] * 13 + [
        "gamma",
        "[SEP]",
    ]
    assert made.cut
    cut_at_the_end = tokenise(row, tokenizer, 23, 0.3, "end")[0]
    assert words(tokenizer, cut_at_the_end) == ["[CLS]"] + ["alpha"] * 22
    assert cut_at_the_end.cut


@pytest.mark.parametrize("max_length", [16, 24, 48, 100])
def test_answer_b_the_last_turn_and_the_prompt_survive_every_budget(tokenizer, max_length):
    turns = 4
    prompts = [*[text("alpha", 300)] * (turns - 1), text("kappa", 300)]
    (made,) = tokenise(
        joint(Pair(tuple(prompts), (text("beta", 300),) * turns, (text("gamma", 300),) * turns)),
        tokenizer,
        max_length,
        0.2,
    )
    assert len(made.ids) == max_length
    count = {part: int((made.parts == part).sum()) for part in (PROMPT, A, B)}
    room = sum(count.values())
    assert count[A] == pytest.approx(count[B], abs=1)
    assert count[PROMPT] == pytest.approx(0.2 * room, abs=2)
    last = words(tokenizer, made).count("kappa")
    assert last >= count[PROMPT] // 2 >= 1


def test_a_conversation_of_many_turns_keeps_its_last_rounds(tokenizer):
    turns = tuple(f"{'alpha' if i < 35 else 'kappa'}" for i in range(36))
    (made,) = tokenise(joint(Pair(turns, turns, turns)), tokenizer, 48, 0.2)
    assert len(made.ids) <= 48
    assert made.cut
    assert words(tokenizer, made)[-6:] == ["kappa", "[SEP]"] * 3


def test_empty_texts_and_any_script(tokenizer):
    for odd in ("", "你好 мир", "🙂", "\N{REPLACEMENT CHARACTER}", "x" * 50_000):
        for made in tokenise(
            [*dual(Pair((odd,), ("",), (odd,))), *joint(Pair(("",), (odd,), ("",)))],
            tokenizer,
            64,
            0.3,
        ):
            assert 3 <= len(made.ids) <= 64
            assert tokenizer.unk_token_id not in made.ids
