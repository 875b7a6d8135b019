"""Measure how similar the prompt, A and B are in their words and characters, by cosines of TF-IDF
vectors. The document frequencies are learned from the training rows."""

from itertools import chain, combinations

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.preprocessing import normalize

from humanpref.bar import shown
from humanpref.schema import TEXT_COLUMNS
from humanpref.text.features import WORD

WORD_COLUMNS = 2**17
CHARACTER_COLUMNS = 2**16
"""Numbers of columns into which words and character trigrams, respectively, are hashed. Hashing
needs no stored vocabulary, and collisions hardly matter."""
IDF_TEXTS = 30_000
"""Maximum number of texts used to count document frequencies. They are evenly spaced over all
texts; more would change little."""
CHUNK = 2_000
"""Number of rows or texts that are turned into vectors at a time, to limit memory use."""

_hash_words = HashingVectorizer(
    token_pattern=WORD.pattern,
    n_features=WORD_COLUMNS,
    norm=None,
    alternate_sign=False,
    dtype=np.float64,
)


class Similarities:
    """Compute cosines between prompt, A and B over words and over character trigrams.

    Attributes
    ----------
    word_idf_, character_idf_ : ndarray
        Inverse document frequencies, (WORD_COLUMNS,) and (CHARACTER_COLUMNS,):
        ln((1 + texts) / (1 + texts with the term)) + 1.
    """

    def fit(self, pairs: pd.DataFrame) -> "Similarities":
        """Learn the inverse document frequencies and return self. Duplicate texts count once."""
        texts = list(dict.fromkeys(chain(*(_texts(pairs[column]) for column in TEXT_COLUMNS))))
        texts = texts[:: -(-len(texts) // IDF_TEXTS) or 1]
        self.word_idf_ = _idf(texts, word_counts, WORD_COLUMNS)
        self.character_idf_ = _idf(texts, trigram_counts, CHARACTER_COLUMNS)
        return self

    def columns(self, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines for n rows. Each is computed once over words and once over trigrams.

        Returns
        -------
        antisymmetric : ndarray
            (n, 2), with the columns of `ANTISYMMETRIC`: cos(prompt, a) - cos(prompt, b).
        symmetric : ndarray
            (n, 6), with the columns of `SYMMETRIC`: the absolute difference and the mean of
            cos(prompt, a) and cos(prompt, b), and cos(a, b).
        """
        starts = range(0, len(pairs), CHUNK)
        chunks = [
            self._cosines(pairs[i : i + CHUNK]) for i in shown(starts, "comparing texts", "part")
        ]
        prompt_a, prompt_b, answers = np.concatenate(chunks, axis=1)
        difference = prompt_a - prompt_b
        return difference, np.hstack([np.abs(difference), (prompt_a + prompt_b) / 2, answers])

    def _cosines(self, pairs: pd.DataFrame) -> np.ndarray:
        """Return cos(prompt, a), cos(prompt, b) and cos(a, b), (3, n, 2). On the last axis, words
        come first, then trigrams."""
        texts = [_texts(pairs[column]) for column in TEXT_COLUMNS]
        cosines = np.empty((3, len(pairs), 2))
        for kind, (counts, idf) in enumerate(
            ((word_counts, self.word_idf_), (trigram_counts, self.character_idf_))
        ):
            vectors = [_unit(counts(column), idf) for column in texts]
            for pair, (u, v) in enumerate(combinations(vectors, 2)):
                cosines[pair, :, kind] = np.asarray(u.multiply(v).sum(axis=1))[:, 0]
        return cosines


_KINDS = ("word", "character")
ANTISYMMETRIC = tuple(f"{kind}_cosine_to_prompt_difference" for kind in _KINDS)
SYMMETRIC = (
    *(f"{kind}_cosine_to_prompt_distance" for kind in _KINDS),
    *(f"{kind}_cosine_to_prompt_mean" for kind in _KINDS),
    *(f"{kind}_cosine_of_answers" for kind in _KINDS),
)


def word_counts(texts: list[str]) -> sparse.csr_matrix:
    """Return the counts of each text's lowercase words, (n, WORD_COLUMNS)."""
    return _hash_words.transform(texts) if texts else sparse.csr_matrix((0, WORD_COLUMNS))


def trigrams(text: str) -> np.ndarray:
    """Return the column of each lowercase character trigram of a text, (trigrams,) int32. Each
    column is below `CHARACTER_COLUMNS`.

    scikit-learn's vectorizer took twenty times as long, since it extracts and hashes trigrams one
    by one.
    """
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4")
    # Knuth's multiplicative hashing, modulo 2^32; the upper bits are well mixed.
    factor = np.uint32(2654435761)
    mixed = (codes[:-2] * factor + codes[1:-1]) * factor + codes[2:]
    return ((mixed * factor) >> np.uint32(16)).astype(np.int32)


def trigram_counts(texts: list[str]) -> sparse.csr_matrix:
    """Return the counts of each text's trigrams, (n, CHARACTER_COLUMNS)."""
    columns = [np.empty(0, dtype=np.int32), *map(trigrams, texts)]
    ends, columns = np.cumsum(list(map(len, columns))), np.concatenate(columns)
    shape = len(texts), CHARACTER_COLUMNS
    counts = sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape)
    counts.sum_duplicates()
    return counts


def _idf(texts: list[str], counts, columns: int) -> np.ndarray:
    with_term = np.zeros(columns)
    for i in shown(range(0, len(texts), CHUNK), "learning terms", "part"):
        with_term += np.bincount(counts(texts[i : i + CHUNK]).indices, minlength=columns)
    return np.log((1 + len(texts)) / (1 + with_term)) + 1


def _unit(counts: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """Return (1 + ln(count)) * idf with each row scaled to length 1; rows without terms stay 0."""
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    return normalize(counts, copy=False)


def _texts(column: pd.Series) -> list[str]:
    return ["\n\n".join(turns) for turns in column]
