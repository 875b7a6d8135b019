"""The words of the arena: what a reader can tell apart, and the order of the models."""

from collections import Counter

from humanpref.arena.vocabulary import KINDS, MODELS, TEXT, TOPICS, WORDS


def test_a_word_belongs_to_one_group():
    """Were a word both precise and vague, or of two topics, the text would not show the truth."""
    words = [
        *WORDS["plain"],
        *WORDS["precise"],
        *WORDS["vague"],
        *WORDS["misspelled"],
        *TOPICS.flat,
    ]
    assert [word for word, count in Counter(words).items() if count > 1] == []


def test_an_opener_belongs_to_one_kind():
    assert set(TEXT["openers"]) == set(KINDS.index)
    openers = [
        opener for languages in TEXT["openers"].values() for some in languages for opener in some
    ]
    assert len(set(openers)) == len(openers)


def test_models_are_strongest_first():
    assert len(MODELS) >= 12
    assert MODELS["strength"].is_monotonic_decreasing
