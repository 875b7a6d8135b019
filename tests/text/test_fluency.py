import numpy as np
import pytest

from humanpref.text.fluency import trigram_log_frequencies
from humanpref.text.overlap import CHARACTER_COLUMNS


def test_two_texts_worked_by_hand():
    """abcd has the trigrams abc and bcd; of abc's two in the other texts, one is abc, and bcd is
    new."""
    first, other = trigram_log_frequencies(["abcd", "ABCx"])
    columns = CHARACTER_COLUMNS + 2
    expected = (np.log(2 / columns) + np.log(1 / columns)) / 2
    assert (first, other) == pytest.approx((expected, expected))


def test_answers_are_more_fluent_than_gibberish(pairs):
    answers = ["\n\n".join(turns) for turns in pairs["response_a"]]
    *fluent, gibberish = trigram_log_frequencies([*answers, "wqzx vvkj qqzp xjq zzv"])
    assert gibberish < np.nanmin(fluent)


def test_a_text_without_trigrams_has_no_value():
    values = trigram_log_frequencies(["ab", "", "abc abc"])
    assert np.isnan(values).tolist() == [True, True, False]
    assert trigram_log_frequencies([]).shape == (0,)
