"""The report's preprocessing (M2), implemented with NLTK: lowercase the text, delete everything but
letters and white space, split the text into words, remove English stopwords, and reduce the words
to their WordNet lemmas.

When a character is deleted, the text on either side is joined ("don't" becomes "dont"). Letters of
all scripts count (Unicode category L). A combining mark (category M: the vowel signs of Indic
scripts, decomposed accents) belongs to the character before it: it is kept after a letter, and
deleted after a deleted character (an emoji's variation selector).

After the deletions, no rule of NLTK's tokenizer spans white space. No period is left for its
sentence splitter (so the splitter's corpus is not needed), and its word rules look only at
apostrophes, punctuation and single words (cannot, gimme). Therefore, each distinct piece of text
between spaces is tokenized once, and its tokens are cached. The result is the same as tokenizing
the complete text, at a fraction of the cost (`benchmarks/preprocess_speed.py`).
"""

import contextlib
import functools
import os
import re
import string
import zipfile
from collections.abc import Callable, Iterable

from humanpref.extras import install_line
from humanpref.schema import InputError
from humanpref.text.processes import in_parts, processes_for

KEEP_SPACES = {"nltk": True, "nltk-no-spaces": False}
"""Whether each variant keeps spaces. `nltk` is the preprocessing that the report intended.
`nltk-no-spaces` is the one that the report actually ran: because of a bug in a regular expression,
spaces are also deleted, so the tokenizer sees one long word."""

MEMO_PIECES = 2**18
"""Maximum number of pieces of text in a `TokenMemo` (about 50 MB); a full memo is cleared."""
MEMO_LENGTH = 64
"""Maximum number of characters in a piece of text that a `TokenMemo` stores; longer pieces hardly
ever recur."""
PROCESS_CHARACTERS = 50_000_000
"""Number of characters of text for which one more process is used. It is large, since each process
must load NLTK and WordNet."""

_CORPORA = ("stopwords", "wordnet")
_NO_ASCII_LETTER = string.punctuation + string.digits
_LOWER_ASCII = bytes(range(256)).lower()
_DELETE_ASCII = bytes(
    code for code in range(128) if not (chr(code).isalpha() or chr(code).isspace())
)


def preprocess(
    texts: Iterable[str], variant: str = "nltk", processes: int | None = None
) -> list[str]:
    """Preprocess texts with one of the variants in `KEEP_SPACES`.

    Parameters
    ----------
    texts : iterable of str
        Any texts, in any script and of any length; they may be empty or contain lone surrogates.
    variant : str
        A key of `KEEP_SPACES`.
    processes : int, optional
        Number of processes, which does not affect the result. By default, one, plus one per
        `PROCESS_CHARACTERS` characters of text, up to the number of cores available to this job.

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
        token_memo()  # raises for missing corpora once, before any process starts
    work = functools.partial(_preprocess, variant=variant)
    parts = in_parts(work, texts, processes, "cleaning texts")
    return [text for part in parts for text in part]


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
    space. This is faster than cleaning it piece by piece, and leaves fewer distinct pieces."""
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
        # The words that NLTK's tokenizer splits, such as "cannot". No other rule can match a piece
        # made only of letters. These rules match complete words, except next to a combining mark.
        contractions = {
            "".join(re.findall(r"\(([\w']+)\)", rule.pattern))
            for rule in NLTKWordTokenizer.CONTRACTIONS2
        }
        # The rules ignore case, and case-insensitive matching treats a dotless i as an i.
        self._contractions = frozenset(
            contractions | {word.replace("i", "ı") for word in contractions}
        )
        # WordNet changes a noun only if the noun is a listed exception or has one of these endings.
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
    """Return the memo of this process, which is created on the first call.

    Raises
    ------
    InputError
        See `preprocess`.
    """
    try:
        import nltk
    except ModuleNotFoundError:
        raise InputError(f"the preprocessing needs nltk: {install_line('nltk')}") from None
    # NLTK reads NLTK_DATA when it is imported, possibly before the variable was set.
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
