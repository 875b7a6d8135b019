"""The report's preprocessing (M2), implemented with NLTK: lowercase the text, delete everything but
letters, split it into words, remove English stopwords, and reduce words to their WordNet lemmas.

Characters that are neither letters nor white space are deleted, and the text on either side is
joined ("don't" becomes "dont"). Letters of every script count (Unicode category L). A combining
mark (category M: the vowel signs of Indic scripts, decomposed accents) is part of the letter before
it and is kept with it; after a deleted character (an emoji's variation selector) it is deleted too.

After that step, no rule of the tokenizer reaches across white space: no period is left for NLTK's
sentence splitter (whose corpus is therefore not needed), and its word rules only look at
apostrophes, punctuation and single words (cannot, gimme). So each piece of text between two spaces
is processed once and its tokens are cached, which gives the same result as tokenizing the complete
text at a fraction of the cost (`benchmarks/preprocess_speed.py`).
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
"""The variants: `nltk` is the preprocessing that the report intended; `nltk-no-spaces` reproduces
its mistake, a regular expression that also deletes spaces, so that the tokenizer sees one long
word."""

MEMO_PIECES = 2**18
"""Maximum number of pieces in the memo (about 50 MB); a full memo is cleared."""
MEMO_LENGTH = 64
"""Maximum length of a piece in the memo, in characters; longer ones hardly ever recur."""
PROCESS_CHARACTERS = 50_000_000
"""Number of characters that justifies starting one more process, which must load NLTK and
WordNet."""

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
        Any texts, in any script and of any length; they may be empty or contain lone surrogates.
    variant : str
        A key of `KEEP_SPACES`.
    processes : int, optional
        Number of processes, which does not affect the result. By default, one for each
        `PROCESS_CHARACTERS`, up to the number of cores available to this job.

    Returns
    -------
    list of str
        The tokens of each text, separated by single spaces; no token contains white space, so
        `split` recovers them.

    Raises
    ------
    InputError
        If NLTK or its corpora are missing. Nothing is ever downloaded.
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
    """Lowercase an ASCII text (most texts are ASCII) and delete everything but letters and white
    space. This is faster than piece by piece and leaves fewer distinct pieces."""
    return text.encode().translate(_LOWER_ASCII, _DELETE_ASCII).decode()


class TokenMemo(dict[str, str]):
    """A cache that maps a lowercase piece of text without spaces to its tokens, joined by
    spaces."""

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
        # The only rules of NLTK's tokenizer that can match a piece made only of letters; they match
        # complete words, unless the word contains a combining mark.
        contractions = {
            "".join(re.findall(r"\(([\w']+)\)", rule.pattern))
            for rule in NLTKWordTokenizer.CONTRACTIONS2
        }
        # They ignore case, and case-insensitive matching treats a dotless i as an i.
        self._contractions = frozenset(
            contractions | {word.replace("i", "ı") for word in contractions}
        )
        # WordNet changes a noun only if it is in its list of exceptions or has one of its endings.
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
    """Create the memo, once per process.

    Raises
    ------
    InputError
        See `preprocess`.
    """
    try:
        import nltk
    except ModuleNotFoundError:
        raise InputError("the preprocessing needs nltk: pip install 'humanpref[nltk]'") from None
    # NLTK reads NLTK_DATA on import, which may have happened before the variable was set.
    folders = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    nltk.data.path[:0] = [folder for folder in folders if folder not in nltk.data.path]
    missing = [name for name in _CORPORA if not _is_found(nltk.data.find, name)]
    if missing:
        raise InputError(
            f"NLTK corpora not found: {' and '.join(missing)}; looked in "
            f"{', '.join(nltk.data.path)}. Download them with `python -m nltk.downloader "
            f"{' '.join(missing)}` on a machine with network access, or set NLTK_DATA to a folder "
            "that holds them under corpora/ (as folders or .zip files)"
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
