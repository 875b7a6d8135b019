"""A cheap proxy for fluency that needs no language model: how common a text's character trigrams
are in other texts."""

import numpy as np

from humanpref.text.overlap import CHARACTER_COLUMNS, trigrams


def trigram_log_frequencies(texts: list[str]) -> np.ndarray:
    """Return the mean log frequency, in the other texts, of each text's lowercase trigrams.

    If the other texts have t trigrams, and c of them are equal to a given trigram, the log
    frequency of that trigram is ln((1 + c) / (`CHARACTER_COLUMNS` + t)).

    Gibberish, misspellings and rare scripts lower the mean. Word order hardly matters. Texts that
    resemble most of the others (for example, in their language) get a higher mean.

    Parameters
    ----------
    texts : list of str
        n texts. A text's own trigrams are excluded from the frequencies used to score it.

    Returns
    -------
    ndarray
        (n,) float64, in nats per trigram; NaN for a text of fewer than three characters.
    """
    total = np.zeros(CHARACTER_COLUMNS)
    for text in texts:
        total += np.bincount(trigrams(text), minlength=CHARACTER_COLUMNS)
    means = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if len(found := trigrams(text)):
            others = total - np.bincount(found, minlength=CHARACTER_COLUMNS)
            frequencies = (1 + others[found]) / (CHARACTER_COLUMNS + others.sum())
            means[i] = np.log(frequencies).mean()
    return means
