"""The report's preprocessing (M2), through NLTK: lower case, letters alone, words, no English
stopwords, WordNet's lemmas.

What is neither a letter nor white space is deleted, and what stood beside it grows together
("don't" becomes "dont"). Letters are those of every script (Unicode category L). A combining mark
(category M: the vowel signs of Indic scripts, decomposed accents) is part of its letter and stays
with it; one behind a deleted character (an emoji's variation selector) goes with that.

Once that is done, nothing in a text reaches across white space: there is no full stop left for
NLTK's sentence splitter (whose corpus is therefore not needed), and its word rules look at
apostrophes, punctuation and single words (cannot, gimme). So each piece of text between two spaces
is worked out once and remembered, which gives the tokens of the whole text at a fraction of the
cost (`benchmarks/preprocess_speed.py`).
"""

import contextlib
import functools
import os
import re
import string
import zipfile
from collections.abc import Callable, Iterable

from humanpref.schema import InputError
from humanpref.text.processes import in_parts, processes_for

KEEP_SPACES = {"nltk": True, "nltk-no-spaces": False}
"""The variants: what the report meant, and its mistake: a regular expression that deletes the
spaces too, so that the tokeniser sees one long word."""

MEMO_PIECES = 2**18
"""Most pieces in the memo (about 50 MB); a full memo is cleared."""
MEMO_LENGTH = 64
"""Longest piece in the memo, in characters; longer ones hardly ever recur."""
PROCESS_CHARACTERS = 50_000_000
"""Characters that justify the start of one more process, which loads NLTK and WordNet."""

_CORPORA = ("stopwords", "wordnet")
_NO_ASCII_LETTER = string.punctuation + string.digits
_LOWER_ASCII = bytes(range(256)).lower()
_DELETE_ASCII = bytes(
    code for code in range(128) if not (chr(code).isalpha() or chr(code).isspace())
)


def preprocess(
    texts: Iterable[str], variant: str = "nltk", processes: int | None = None
) -> list[str]:
    """Preprocess texts as the report does.

    Parameters
    ----------
    texts : iterable of str
        Any text: every script, empty, of any length, lone surrogates.
    variant : str
        A key of `KEEP_SPACES`.
    processes : int, optional
        The result does not depend on it. Without: one for each `PROCESS_CHARACTERS`, at most one
        per core of this job.

    Returns
    -------
    list of str
        For each text its tokens with one space between them; no token holds white space, so that
        `split` gives them back.

    Raises
    ------
    InputError
        If NLTK or its corpora are not there. Nothing is ever downloaded.
    """
    texts = list(texts)
    if processes is None:
        processes = processes_for(sum(map(len, texts)), PROCESS_CHARACTERS)
    if processes > 1:
        token_memo()  # raise for missing corpora once, not in every process
    work = functools.partial(_preprocess, variant=variant)
    return [text for part in in_parts(work, texts, processes) for text in part]


def _preprocess(texts: list[str], variant: str) -> list[str]:
    left_of, keep_spaces = token_memo().__getitem__, KEEP_SPACES[variant]
    cleaned = []
    for text in texts:
        text = _delete_quickly(text) if text.isascii() else text.lower()
        pieces = text.split() if keep_spaces else ["".join(text.split())]
        cleaned.append(" ".join(filter(None, map(left_of, pieces))))
    return cleaned


def _delete_quickly(text: str) -> str:
    """Lower-case an ASCII text, as most are, and delete all but letters and white space. This is
    faster than piece by piece and leaves fewer distinct pieces."""
    return text.encode().translate(_LOWER_ASCII, _DELETE_ASCII).decode()


class TokenMemo(dict[str, str]):
    """A memo from a lower-case piece of text without spaces to its tokens, joined by spaces."""

    def __init__(self) -> None:
        super().__init__()
        import regex  # NLTK depends on it
        from nltk.corpus import stopwords, wordnet
        from nltk.stem import WordNetLemmatizer
        from nltk.tokenize import NLTKWordTokenizer, word_tokenize

        self._delete = functools.partial(regex.compile(r"[^\p{L}\p{M}]+\p{M}*").sub, "")
        self._tokenize = functools.partial(word_tokenize, preserve_line=True)
        self._lemmatize = WordNetLemmatizer().lemmatize
        self._stopwords = frozenset(stopwords.words("english"))
        # The only rules of NLTK's tokenizer that letters alone can meet: whole words, unless a mark
        # stands in them.
        contractions = {
            "".join(re.findall(r"\(([\w']+)\)", rule.pattern))
            for rule in NLTKWordTokenizer.CONTRACTIONS2
        }
        # They ignore case, and then a dotless i is an i.
        self._contractions = frozenset(
            contractions | {word.replace("i", "ı") for word in contractions}
        )
        # WordNet changes a noun only by its list of exceptions or by one of its endings.
        endings = {ending for ending, _ in wordnet.MORPHOLOGICAL_SUBSTITUTIONS[wordnet.NOUN]}
        self._endings = tuple(
            e for e in endings if not any(e.endswith(other) for other in endings - {e})
        )  # -s and -men
        with wordnet.open("noun.exc") as lines:
            self._exceptions = frozenset(
                line.split(maxsplit=1)[0] for line in lines if not line.isspace()
            )

    def __missing__(self, piece: str) -> str:
        word = piece.strip(_NO_ASCII_LETTER)
        if not word.isalpha():
            word = self._delete(piece)
        if word != piece:
            left = self[word]
        elif not word.isalpha() or word in self._contractions:
            left = " ".join(
                self._lemma(token) for token in self._tokenize(word) if token not in self._stopwords
            )
        else:
            left = "" if word in self._stopwords else self._lemma(word)
        if len(piece) <= MEMO_LENGTH:
            if len(self) >= MEMO_PIECES:
                self.clear()
            self[piece] = left
        return left

    def _lemma(self, word: str) -> str:
        return (
            self._lemmatize(word)
            if word.endswith(self._endings) or word in self._exceptions
            else word
        )


@functools.cache
def token_memo() -> TokenMemo:
    """Make the memo, once in a process.

    Raises
    ------
    InputError
        See `preprocess`.
    """
    try:
        import nltk
    except ModuleNotFoundError:
        raise InputError("the preprocessing needs nltk: pip install 'humanpref[nltk]'") from None
    # NLTK reads NLTK_DATA when it is imported, which may have been earlier.
    folders = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    nltk.data.path[:0] = [folder for folder in folders if folder not in nltk.data.path]
    missing = [name for name in _CORPORA if not _is_found(nltk.data.find, name)]
    if missing:
        raise InputError(
            f"NLTK's corpora {' and '.join(missing)} are in none of {', '.join(nltk.data.path)}: "
            f"get them with `python -m nltk.downloader {' '.join(missing)}` where there is a "
            "network, or set NLTK_DATA to a folder that holds them under corpora/ (as folders or "
            ".zip)"
        )
    try:
        return TokenMemo()
    except (LookupError, OSError, zipfile.BadZipFile) as error:
        raise InputError(
            f"NLTK's corpora ({', '.join(_CORPORA)}) cannot be read: {error}"
        ) from None


def _is_found(find: Callable[[str], object], corpus: str) -> bool:
    for resource in (f"corpora/{corpus}", f"corpora/{corpus}.zip/{corpus}/"):
        with contextlib.suppress(LookupError):
            find(resource)
            return True
    return False
