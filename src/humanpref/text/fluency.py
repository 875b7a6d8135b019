"""A cheap proxy for fluency that needs no language model: how common a text's character trigrams
are in other texts."""

import numpy as np

from humanpref.text.overlap import CHARACTER_COLUMNS, CHUNK, trigram_counts


def trigram_log_frequencies(texts: list[str]) -> np.ndarray:
    """Return, for each text, the mean over its lowercase trigrams of ln((1 + the trigram's count in
    the other texts) / (`CHARACTER_COLUMNS` + number of trigrams in the other texts)).

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
    starts = range(0, len(texts), CHUNK)
    total = np.zeros(CHARACTER_COLUMNS)
    for start in starts:
        total += np.asarray(trigram_counts(texts[start : start + CHUNK]).sum(axis=0))[0]
    means = [np.empty(0)]
    for start in starts:
        counts = trigram_counts(texts[start : start + CHUNK])
        lengths = np.asarray(counts.sum(axis=1))[:, 0]
        own = counts.data
        others = total.sum() - np.repeat(lengths, np.diff(counts.indptr))
        counts.data = own * np.log((1 + total[counts.indices] - own) / (CHARACTER_COLUMNS + others))
        sums = np.asarray(counts.sum(axis=1))[:, 0]
        means.append(np.divide(sums, lengths, out=np.full(len(sums), np.nan), where=lengths > 0))
    return np.concatenate(means)
