"""The report's preprocessing: what it keeps, on corpora of a few words written here, and NLTK's own
way on the real ones."""

import os
import re
import shutil
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humanpref.cli.main import main
from humanpref.config import load_config
from humanpref.data import labels_of, read_pairs
from humanpref.extras import install_line
from humanpref.models import build_model, load_model
from humanpref.runs.artifact import Artifact
from humanpref.schema import InputError
from humanpref.studies import compare as comparison
from humanpref.text import clean
from humanpref.text.clean import preprocess

nltk = pytest.importorskip("nltk")

NOUNS = ("cat", "dog", "glass", "goose", "mouse", "child", "box", "wolf")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Stopwords and WordNet in miniature, in the layout of NLTK's own; no punkt, no omw-1.4."""
    root = tmp_path_factory.mktemp("nltk_data")
    (root / "corpora" / "stopwords").mkdir(parents=True)
    (root / "corpora" / "stopwords" / "english").write_text("the\na\nand\nnot\ndon't\n")
    wordnet = root / "corpora" / "wordnet"
    wordnet.mkdir()
    for name in ("cntlist.rev", "index.sense"):
        (wordnet / name).write_text("")
    (wordnet / "lexnames").write_text("00\tadj.all\t3\n01\tadj.pert\t3\n")
    for pos in ("adj", "adv", "noun", "verb"):
        (wordnet / f"data.{pos}").write_text("  1 WordNet 3.0 Copyright\n")
        (wordnet / f"{pos}.exc").write_text(
            "geese goose\nmice mouse\nchildren child\n" if pos == "noun" else ""
        )
        entries = NOUNS if pos == "noun" else ()
        (wordnet / f"index.{pos}").write_text(
            "".join(f"{word} n 1 0 1 0 0000000{i}  \n" for i, word in enumerate(entries))
        )
    return root


def forget():
    """NLTK and we read the corpora anew."""
    for corpus in (nltk.corpus.stopwords, nltk.corpus.wordnet):
        corpus._unload()
    clean.token_memo.cache_clear()


@pytest.fixture
def nltk_data(monkeypatch):
    """Make NLTK look into one folder only."""

    def only(folder):
        monkeypatch.setenv("NLTK_DATA", str(folder))
        monkeypatch.setattr(nltk.data, "path", [])
        forget()

    yield only
    monkeypatch.undo()
    forget()


@pytest.fixture
def small(corpora, nltk_data):
    nltk_data(corpora)


@pytest.fixture
def real(nltk_data):
    """NLTK's own corpora, from $NLTK_DATA or its usual places."""
    folders = [*os.environ.get("NLTK_DATA", "").split(os.pathsep), *nltk.data.path]
    for folder in filter(None, folders):
        if (Path(folder) / "tokenizers/punkt_tab/english").is_dir():
            nltk_data(folder)
            try:
                clean.token_memo()
            except InputError:
                continue
            return
    pytest.skip(
        "NLTK's corpora (punkt_tab, stopwords, wordnet) are not here (set NLTK_DATA to their "
        "folder)"
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The CATS and 3 geese, 12 mice!", "cat goose mouse"),
        ("glasses boxes wolves children", "glass box wolf child"),
        ("glass gas bus", "glass gas bus"),  # an ending alone is no plural
        (
            "don't e.g. end.Start half-way",
            "dont eg endstart halfway",
        ),  # what stood beside grows together
        ("I cannot, gimme a cat", "i can gim me cat"),  # NLTK's contractions; "not" is a stopword
        ("cannot. 'cannot' (cannot)", "can can can"),
        ("cannots uncannot", "cannots uncannot"),
        ("Wanna gonna gotta lemme gımme", "wan na gon na got ta lem me gım me"),
        ("the\tcat\u00a0and\u3000the\ndog\u2028x", "cat dog x"),
        ("हिन्दी में किताबें", "हिन्दी में किताबें"),  # vowel signs are marks
        ("Cafe\u0301 CAFÉ", "cafe\u0301 café"),
        (
            "cat\u0301s cannot\u0301",
            "cat\u0301s can \u0301",
        ),  # NLTK takes a mark for the end of a word
        # Variation selectors and keycaps are marks of what is deleted.
        ("a❤️cat ❤️ 1️⃣ ❤️", "acat"),
        ("你好，世界。٣ Ⅷ ½ x²", "你好世界 x"),
        ("İstanbul ΟΔΟΣ STRASSE ß", "i̇stanbul οδος strasse ß"),
        ("\ud83d cat \udc00", "cat"),
        ("zero\u200bwidth", "zerowidth"),
        ("", ""),
        (" \n ", ""),
        ("123 ?! _", ""),
        ("the and", ""),
    ],
)
def test_tokens(text, tokens):
    assert preprocess([text]) == [tokens]
    assert (
        preprocess([text, text.encode("utf-8", "replace").decode(), text])[2] == tokens
    )  # remembered, and beside others


@pytest.mark.usefixtures("small")
def test_the_reports_mistake_leaves_one_long_word():
    texts = ["The cats, and\n3 geese", "cats", "The", " c a n n o t ", ""]
    assert preprocess(texts, "nltk-no-spaces") == ["thecatsandgeese", "cat", "", "can", ""]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", list(clean.KEEP_SPACES))
@pytest.mark.parametrize(
    "text",
    [
        "x" * 50_000,
        "a " * 25_000,
        "." * 50_000 + "x",
        "\u0301" * 50_000,
        "é❤️" * 17_000,
        "'" * 50_000,
        "cannot" * 9_000,
    ],
)
def test_fifty_thousand_characters(text, variant):
    letters = sum(unicodedata.category(c)[0] == "L" for c in text)
    (found,) = preprocess([text], variant)
    assert sum(unicodedata.category(c)[0] == "L" for c in found) in (letters, 0)
    assert len(clean.token_memo()) < 10 or max(map(len, clean.token_memo())) <= clean.MEMO_LENGTH


@pytest.mark.usefixtures("small")
def test_the_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(clean, "MEMO_PIECES", 10)
    texts = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}é cats" for i in range(200)]
    assert preprocess(texts) == [
        f"word{chr(97 + i // 26)}{chr(97 + i % 26)}é cat" for i in range(200)
    ]
    assert len(clean.token_memo()) <= 10
    preprocess(["y" * 65 + "é"])
    assert "y" * 65 + "é" not in clean.token_memo()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_several_processes_say_the_same(monkeypatch):
    texts = [f"the {word}s and don't ❤️" for word in NOUNS] * 3
    alone = preprocess(texts)
    assert alone[0] == "cat dont"
    assert preprocess(texts, processes=2) == alone


@pytest.mark.usefixtures("small")
def test_how_many_processes(monkeypatch):
    started = []

    def parallel(wanted, **_):
        started.append(wanted)
        raise RuntimeError

    monkeypatch.setattr("joblib.Parallel", parallel)
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    monkeypatch.setattr(clean, "PROCESS_CHARACTERS", 100)
    preprocess(["a" * 99])  # in this process
    for characters in (100, 250, 100_000):
        with pytest.raises(RuntimeError):
            preprocess(["a" * characters])
    assert started == [2, 3, 3]
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    preprocess(["a" * 1_000])
    assert len(started) == 3


def test_corpora_as_zips(corpora, tmp_path, nltk_data):
    for name in ("stopwords", "wordnet"):
        shutil.make_archive(tmp_path / "corpora" / name, "zip", corpora / "corpora", name)
    nltk_data(tmp_path)
    assert preprocess(["the cats"]) == ["cat"]


def test_what_is_missing_is_said(corpora, tmp_path, nltk_data):
    nltk_data(tmp_path)
    with pytest.raises(
        InputError,
        match=(
            rf"stopwords and wordnet; .*{re.escape(str(tmp_path))}.*nltk.downloader stopwords "
            rf"wordnet"
        ),
    ):
        preprocess(["x"], processes=2)
    shutil.copytree(corpora / "corpora" / "stopwords", tmp_path / "corpora" / "stopwords")
    with pytest.raises(InputError, match=r"corpora not found: wordnet; .*NLTK_DATA"):
        preprocess(["x"])
    shutil.copytree(corpora / "corpora" / "wordnet", tmp_path / "corpora" / "wordnet")
    assert preprocess(["cats"]) == ["cat"]  # a failure is not remembered
    nltk_data(tmp_path)
    (tmp_path / "corpora" / "stopwords" / "english").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        preprocess(["x"])


def test_without_nltk(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    clean.token_memo.cache_clear()
    with pytest.raises(InputError, match=re.escape(install_line("nltk"))):
        preprocess(["x"])


def test_nltk_is_imported_only_when_it_is_needed():
    code = "import sys, humanpref.text.clean; sys.exit('nltk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "variant", ["nltk", pytest.param("nltk-no-spaces", marks=pytest.mark.slow)]
)
def test_the_sparse_model_counts_what_is_left(pairs, variant, tmp_path):
    few = ["model.term_penalties=3", "model.structure_penalties=30"]
    config = load_config("sparse", overrides=[*few, f"model.preprocess={variant}"])
    model = build_model(config).fit(pairs, labels_of(pairs))
    assert (
        model.report_["terms"] == 0 if variant == "nltk-no-spaces" else model.report_["terms"] > 100
    )
    if variant == "nltk":
        terms = {word for term in model.responses_.get_feature_names_out() for word in term.split()}
        assert not terms & {"the", "and", "not"}
        assert not any(character.isdigit() for term in terms for character in term)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    expected = model.predict_proba(pairs)
    assert (loaded.predict_proba(pairs) == expected).all()
    plain = build_model(load_config("sparse", overrides=few)).fit(pairs, labels_of(pairs))
    assert abs(plain.predict_proba(pairs) - expected).max() > 1e-3


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_the_ablation(arena, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    # In this process, which has the small corpora.
    monkeypatch.setattr(comparison, "fresh_processes", lambda _: ThreadPoolExecutor(1))
    few = ["--set", "model.term_penalties=3", "--set", "model.structure_penalties=30"]
    csv, out = str(arena / "train.csv"), tmp_path / "out"
    assert (
        main(["ablate", "preprocessing", "--train", csv, "--out", str(out), "--folds", "2", *few])
        == 0
    )
    assert capsys.readouterr().out == (out / "preprocessing.md").read_text()
    table = pd.read_csv(out / "preprocessing.csv").set_index("name")
    assert table.index.tolist() == ["none", "nltk", "nltk-no-spaces"]
    assert table["terms"].is_monotonic_decreasing
    assert table.loc["nltk-no-spaces", "terms"] == 0
    for variant in table.index:
        assert table.loc[variant, "log_loss"] == pytest.approx(
            Artifact.load(out / variant).metrics["log_loss"], abs=1e-12
        )
    np.testing.assert_allclose(
        table["difference"], table["log_loss"] - table.loc["none", "log_loss"], atol=1e-12
    )
    assert (table["difference_low"] <= table["difference"]).all()
    assert (out / "preprocessing.png").read_bytes().startswith(b"\x89PNG")
    assert (
        main(
            [
                "ablate",
                "preprocessing",
                "--preset",
                "prior",
                "--train",
                csv,
                "--out",
                str(tmp_path / "x"),
            ]
        )
        == 2
    )


def test_an_unknown_preprocessing():
    with pytest.raises(
        InputError, match=r"model\.preprocess: expected one of none, nltk, nltk-no-spaces"
    ):
        load_config("sparse", overrides=["model.preprocess=stem"])


@pytest.mark.usefixtures("real")
def test_every_text_as_nltk_itself_does_it(real_data):
    stopwords, wordnet = nltk.corpus.stopwords, nltk.corpus.wordnet

    def kept(text):
        out, deleted = [], False
        for character in text.lower():
            category = unicodedata.category(character)[0]
            if not (category == "M" and deleted):
                deleted = not (category in "LM" or character.isspace())
            out.append("" if deleted else character)
        return "".join(out)

    stops, lemmatizer = set(stopwords.words("english")), nltk.WordNetLemmatizer()
    pairs = read_pairs(real_data / "arena_train.csv")[::10]
    texts = [
        "\n\n".join(turns)
        for column in ("prompt", "response_a", "response_b")
        for turns in pairs[column]
    ]
    nouns = list(wordnet.all_lemma_names("n"))[::40]
    texts += [
        " ".join(form for noun in nouns for form in (noun, f"{noun}s", f"{noun}es", f"{noun}men"))
    ]
    texts += [
        " ".join(line.split()[0] for line in wordnet.open("noun.exc")),
        "wanna gotta lemme gonna cannot " * 3,
    ]
    expected = [
        [
            lemmatizer.lemmatize(token)
            for token in nltk.word_tokenize(kept(text))
            if token not in stops
        ]
        for text in texts
    ]
    assert [text.split() for text in preprocess(texts)] == expected
