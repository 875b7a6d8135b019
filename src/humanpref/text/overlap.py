"""How alike prompt, A and B are in their words and characters: cosines of TF-IDF vectors whose
weights the training rows give."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from humanpref.text.features import WORD

WORD_COLUMNS = 2**17
CHARACTER_COLUMNS = 2**16
"""Columns that words and character trigrams are hashed into: no vocabulary to keep, and collisions
that hardly matter."""
IDF_TEXTS = 30_000
"""Texts, evenly spaced over the rows, that inverse document frequencies are counted over; more
hardly change them."""
CHUNK = 2_000
"""Rows that are turned into vectors at a time; bounds the memory."""

_hash_words = HashingVectorizer(
    token_pattern=WORD.pattern,
    n_features=WORD_COLUMNS,
    norm=None,
    alternate_sign=False,
    dtype=np.float64,
)


class Similarities:
    """Cosines between prompt, A and B over words and over character trigrams.

    Attributes
    ----------
    word_idf_, character_idf_ : ndarray
        (WORD_COLUMNS,) and (CHARACTER_COLUMNS,) inverse document frequencies, ln((1 + texts) / (1 +
        texts with the term)) + 1.
    """

    def fit(self, pairs: pd.DataFrame) -> "Similarities":
        """Learn the inverse document frequencies. A text that stands twice counts once."""
        texts = list(
            dict.fromkeys(
                text
                for column in ("prompt", "response_a", "response_b")
                for text in _texts(pairs[column])
            )
        )
        texts = texts[:: -(-len(texts) // IDF_TEXTS)] if texts else []
        self.word_idf_ = _idf(texts, word_counts, WORD_COLUMNS)
        self.character_idf_ = _idf(texts, trigram_counts, CHARACTER_COLUMNS)
        return self

    def columns(self, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """The cosines of n rows.

        Returns
        -------
        antisymmetric : ndarray
            (n, 2), the columns of `ANTISYMMETRIC`: cos(prompt, a) - cos(prompt, b).
        symmetric : ndarray
            (n, 6), the columns of `SYMMETRIC`: the absolute value and the mean of the two, and
            cos(a, b).
        """
        chunks = [self._cosines(pairs[i : i + CHUNK]) for i in range(0, len(pairs), CHUNK)]
        prompt_a, prompt_b, answers = (np.vstack(parts) for parts in zip(*chunks, strict=True))
        difference = prompt_a - prompt_b
        return difference, np.hstack([np.abs(difference), (prompt_a + prompt_b) / 2, answers])

    def _cosines(self, pairs: pd.DataFrame) -> Iterator[np.ndarray]:
        """cos(prompt, a), cos(prompt, b) and cos(a, b), each (n, 2): by words, by characters."""
        both = []
        for counts, idf in ((word_counts, self.word_idf_), (trigram_counts, self.character_idf_)):
            prompt, a, b = (
                _unit(counts(_texts(pairs[c])), idf) for c in ("prompt", "response_a", "response_b")
            )
            both.append(
                [
                    np.asarray(u.multiply(v).sum(axis=1))[:, 0]
                    for u, v in ((prompt, a), (prompt, b), (a, b))
                ]
            )
        return (np.stack(columns, axis=1) for columns in zip(*both, strict=True))


_KINDS = ("word", "character")
ANTISYMMETRIC = tuple(f"{kind}_cosine_to_prompt_difference" for kind in _KINDS)
SYMMETRIC = (
    *(f"{kind}_cosine_to_prompt_distance" for kind in _KINDS),
    *(f"{kind}_cosine_to_prompt_mean" for kind in _KINDS),
    *(f"{kind}_cosine_of_answers" for kind in _KINDS),
)


def word_counts(texts: list[str]) -> sparse.csr_matrix:
    """(n, WORD_COLUMNS) counts of lower-case words."""
    return _hash_words.transform(texts) if texts else sparse.csr_matrix((0, WORD_COLUMNS))


def trigram_counts(texts: list[str]) -> sparse.csr_matrix:
    """(n, CHARACTER_COLUMNS) counts of lower-case character trigrams.

    scikit-learn's character n-grams took twenty times as long: they are cut and hashed one by one.
    """
    hashes = []
    for text in texts:
        codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4")
        # Knuth's multiplicative hashing, modulo 2^32; the upper bits are the well-mixed ones.
        mixed = (codes[:-2] * np.uint32(2654435761) + codes[1:-1]) * np.uint32(2654435761) + codes[
            2:
        ]
        hashes.append(((mixed * np.uint32(2654435761)) >> np.uint32(16)).astype(np.int32))
    ends = np.cumsum([0, *map(len, hashes)])
    columns = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.int32)
    counts = sparse.csr_matrix(
        (np.ones(len(columns)), columns, ends), shape=(len(texts), CHARACTER_COLUMNS)
    )
    counts.sum_duplicates()
    return counts


def _idf(texts: list[str], counts, columns: int) -> np.ndarray:
    with_term = np.zeros(columns)
    for i in range(0, len(texts), CHUNK):
        with_term += np.bincount(counts(texts[i : i + CHUNK]).indices, minlength=columns)
    return np.log((1 + len(texts)) / (1 + with_term)) + 1


def _unit(counts: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """(1 + ln count) idf, each row scaled to length 1; rows without terms stay 0."""
    counts.data = (1 + np.log(counts.data)) * idf[counts.indices]
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(axis=1))[:, 0])
    counts.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(counts.indptr))
    return counts


def _texts(column: pd.Series) -> list[str]:
    return ["\n\n".join(turns) for turns in column]
