"""Token ids that are computed once, whichever models and processes read them."""

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tokenizers")

from humanpref.models.scratch import train_tokenizer
from humanpref.text import tokens
from humanpref.text.token_memo import TokenMemos
from humanpref.text.tokens import token_ids

TEXTS = ["one two", "two three", "", "one [SEP] é", "one two"]


def tokenizer_of(size=300):
    return train_tokenizer(["one two three four five"] * 3, size)


@pytest.fixture
def tokenized(monkeypatch):
    """The texts that go through the tokenizer."""
    seen, text_ids = [], tokens.text_ids

    def spy(texts, tokenizer):
        seen.extend(texts)
        return text_ids(texts, tokenizer)

    monkeypatch.setattr(tokens, "text_ids", spy)
    return seen


def same(made, expected):
    assert [ids.tolist() for ids in made] == [ids.tolist() for ids in expected]
    assert {ids.dtype for ids in made} == {np.dtype("int32")}


@pytest.mark.parametrize("shared", [False, True])
def test_each_text_is_tokenized_once(tmp_path, tokenized, shared):
    tokenizer = tokenizer_of()
    expected = token_ids(TEXTS, tokenizer)
    tokenized.clear()
    memos = TokenMemos(tmp_path / "tokens" if shared else None)
    same(memos.of(tokenizer)(TEXTS), expected)
    same(memos.of(tokenizer_of())(TEXTS[::-1]), expected[::-1])
    assert tokenized == TEXTS[:4]
    assert memos.of(tokenizer)([]) == []
    memos.remove()
    assert list(tmp_path.iterdir()) == []


def test_another_tokenizer_shares_nothing(tokenized):
    memos, tokenizer = TokenMemos(), tokenizer_of()
    memos.of(tokenizer)(TEXTS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["two"]})
    memos.of(tokenizer)(TEXTS)
    assert tokenized == 2 * TEXTS[:4]


def test_processes_read_what_others_have_written(tmp_path, tokenized):
    """Memos of one folder are those of processes that start at different times."""
    tokenizer = tokenizer_of()
    first, second, third = (TokenMemos(tmp_path).of(tokenizer) for _ in range(3))
    first(["a", "b"])
    second(["b", "c"])
    first(["c", "d"])
    same(third(["d", "a", "c", "b"]), token_ids(["d", "a", "c", "b"], tokenizer))
    assert tokenized[:4] == ["a", "b", "c", "d"]
    assert tokenized[4:] == ["d", "a", "c", "b"]  # those of token_ids alone


def test_a_file_that_was_not_finished_is_not_read(tmp_path, tokenized):
    tokenizer = tokenizer_of()
    TokenMemos(tmp_path).of(tokenizer)(["a"])
    (folder,) = tmp_path.iterdir()
    (folder / "unfinished-1").write_bytes(b"half")
    TokenMemos(tmp_path).of(tokenizer)(["a"])
    assert tokenized == ["a"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError

    monkeypatch.setattr("humanpref.text.token_memo.fcntl", SimpleNamespace(flock=refuse, LOCK_EX=2))
    tokenizer = tokenizer_of()
    same(TokenMemos(tmp_path).of(tokenizer)(TEXTS), token_ids(TEXTS, tokenizer))


def read(folder, number, journal):
    text_ids = tokens.text_ids

    def slow(texts, *rest):
        with open(journal, "a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return text_ids(texts, *rest)

    tokens.text_ids = slow
    texts = [f"text {(number + i) % 40}" for i in range(30)]
    memo = TokenMemos(folder).of(tokenizer_of())
    made = [ids for start in range(0, 30, 5) for ids in memo(texts[start : start + 5])]
    same(made, token_ids(texts, tokenizer_of()))


@pytest.mark.slow
def test_processes_at_the_same_time_tokenize_each_text_once(tmp_path):
    context, journal = multiprocessing.get_context("fork"), tmp_path / "journal"
    processes = [
        context.Process(target=read, args=(tmp_path / "tokens", 10 * number, journal))
        for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    # Each process also tokenizes its 30 texts to compare.
    assert len(journal.read_text().splitlines()) == 40 + 4 * 30
