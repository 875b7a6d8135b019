import pytest

from humanpref.models.scratch import train_tokenizer
from humanpref.text.format import Branch, branch
from humanpref.text.tokens import budget, cut_middle, template_of, tokenise


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["alpha beta gamma delta epsilon zeta eta theta iota kappa"] * 5, 400)


def words(tokenizer, tokens):
    return [token.lstrip("Ġ") for token in tokenizer.convert_ids_to_tokens(tokens.ids.tolist())]


def test_all_turns_of_both_sides_are_joined():
    assert branch(("p1", "p2"), ("r1", "r2")) == Branch("p1\n\np2", "r1\n\nr2")
    assert branch((), ()) == Branch("", "")


def test_exact_tokens(tokenizer):
    made = tokenise([Branch("alpha beta", "gamma")], tokenizer, 512, 0.3)[0]
    assert words(tokenizer, made) == ["[CLS]", "alpha", "beta", "[SEP]", "gamma", "[SEP]"]
    assert made.types.tolist() == [0, 0, 0, 0, 1, 1]


def test_the_template_is_the_tokenizers_own(tokenizer):
    template = template_of(tokenizer)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert (template.prefix, template.middle, template.suffix, template.types) == ([cls], [sep], [sep], (0, 1))
    assert template.tokens == 3


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [
        (10, 20, (10, 20)),  # both fit
        (90, 10, (90, 10)),  # the room is just enough
        (200, 10, (90, 10)),  # a short response leaves its room to the prompt
        (10, 200, (10, 90)),  # and the other way round
        (200, 200, (30, 70)),  # both long: the shares
        (30, 200, (30, 70)),
        (0, 200, (0, 100)),
        (200, 0, (100, 0)),
    ],
)
def test_budget(prompt, response, kept):
    assert budget(prompt, response, room=100, prompt_share=0.3) == kept


def test_cutting_keeps_both_ends():
    assert cut_middle([1, 2, 3, 4, 5], 5) == [1, 2, 3, 4, 5]
    assert cut_middle([1, 2, 3, 4, 5], 3) == [1, 2, 5]
    assert cut_middle([1, 2, 3, 4, 5], 2) == [1, 5]
    assert cut_middle([1, 2, 3, 4, 5], 1) == [1]
    assert cut_middle([1, 2, 3, 4, 5], 0) == []


def test_the_response_survives_a_long_prompt_to_the_token(tokenizer):
    made = tokenise([Branch("alpha" + " alpha" * 500, "beta" + " beta" * 500 + " gamma")], tokenizer, 23, 0.3)[0]
    assert words(tokenizer, made) == ["[CLS]"] + ["alpha"] * 6 + ["[SEP]"] + ["beta"] * 13 + ["gamma"] + ["[SEP]"]


def test_empty_texts_and_any_script(tokenizer):
    for text in ("", "你好 мир", "🙂", "\N{REPLACEMENT CHARACTER}", "x" * 50_000):
        for made in tokenise([Branch(text, ""), Branch("", text)], tokenizer, 64, 0.3):
            assert 3 <= len(made.ids) <= 64
            assert tokenizer.unk_token_id not in made.ids
