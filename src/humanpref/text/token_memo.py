"""Token ids of texts, kept so that each text is tokenized once, whichever models and processes read
it."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from humanpref.storage import storage_errors
from humanpref.text.tokens import token_ids


class TokenMemo:
    """A function from texts to their token ids under one tokenizer.

    If there is a folder, processes share the token ids through files in it. A process that meets
    new texts locks the folder, reads the ids that others have added, and tokenizes only the rest.
    """

    def __init__(self, tokenizer: Any, folder: Path | None = None) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.known: dict[bytes, np.ndarray] = {}
        self.parts_read = 0

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Return the token ids of each text, as `humanpref.text.tokens.token_ids` does."""
        keys = [_key(text) for text in texts]
        texts_of = dict(zip(keys, texts, strict=True))
        if self.folder is None:
            self._add(texts_of)
        elif texts_of.keys() - self.known.keys():
            with _locked(self.folder):
                self._read()
                if added := self._add(texts_of):
                    self._write(added)
        return [self.known[key] for key in keys]

    def _add(self, texts_of: dict[bytes, str]) -> list[bytes]:
        """Tokenize the texts that are not known, and return their keys."""
        new = [key for key in texts_of if key not in self.known]
        ids = token_ids([texts_of[key] for key in new], self.tokenizer)
        self.known.update(zip(new, ids, strict=True))
        return new

    def _part(self) -> Path:
        """Return the path of the next shared file that this process will read or write."""
        return self.folder / f"{self.parts_read}.safetensors"

    def _read(self) -> None:
        while (path := self._part()).is_file():
            part = load_file(path)
            ids = np.split(part["ids"], part["lengths"].cumsum()[:-1])
            self.known.update(zip(map(bytes, part["keys"]), ids, strict=True))
            self.parts_read += 1

    def _write(self, keys: list[bytes]) -> None:
        ids = [self.known[key] for key in keys]
        part = {
            "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1),
            "lengths": np.array([len(own) for own in ids]),
            "ids": np.concatenate(ids),
        }
        unfinished = self.folder / f"unfinished-{os.getpid()}"
        with storage_errors(self.folder):
            save_file(part, unfinished)
        os.replace(unfinished, self._part())
        self.parts_read += 1


class TokenMemos:
    """A `TokenMemo` for each tokenizer. Tokenizers are told apart by their content, not their name.

    Parameters
    ----------
    folder : Path, optional
        The folder in which processes share their memos. By default, they are not shared.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.memos: dict[str, TokenMemo] = {}

    def of(self, tokenizer: Any) -> TokenMemo:
        """Return the memo that all equal tokenizers share."""
        described = repr((tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map))
        digest = hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()
        folder = None if self.folder is None else self.folder / digest
        return self.memos.setdefault(digest, TokenMemo(tokenizer, folder))

    def remove(self) -> None:
        """Remove the folder in which processes share their memos."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder, and lock it during the block. The lock of a killed process is released."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        # On a file system without locks, two processes may tokenize the same text.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
