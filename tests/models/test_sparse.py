"""What is particular to the sparse model; what holds for every family is in test_contract.py."""

import doctest
import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from humanpref.data import as_pairs, labels_of
from humanpref.models import load_model, sparse
from humanpref.models.sparse import SparseModel
from humanpref.schema import InputError
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC, structural_features

FEW = {"term_penalties": (10.0,), "structure_penalties": (100.0,)}


@pytest.fixture(scope="module")
def model(pairs):
    return SparseModel(min_rows=2, max_terms=400, **FEW).fit(pairs, labels_of(pairs))


def test_the_example_holds():
    results = doctest.testmod(sparse)
    assert results.attempted >= 3
    assert results.failed == 0


def test_probabilities_by_hand(model, pairs):
    """TF-IDF differences, scaled structure, and the cosine of the answers as the last column."""
    few = pairs[:10].reset_index(drop=True)
    a, b, prompt = (
        ["\n\n".join(turns) for turns in few[column]]
        for column in ("response_a", "response_b", "prompt")
    )
    terms_a, terms_b = (model.responses_.transform(texts).toarray() for texts in (a, b))
    x, z = model.scales_.scaled(*structural_features(few))
    cosine = (terms_a * terms_b).sum(axis=1, keepdims=True)
    z = np.hstack([model.prompts_.transform(prompt).toarray(), z, cosine])
    margin = np.hstack([terms_a - terms_b, x]) @ model.regression_.w_
    tie = z @ model.regression_.v_ + model.regression_.c_
    scores = np.exp(np.stack([margin / 2, -margin / 2, tie], axis=1))
    expected = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(few), expected, atol=1e-9)
    assert model.swap_equivariant


def test_vocabularies_are_capped_and_of_distinct_texts(model, pairs):
    assert model.report_["terms"] == len(model.responses_.vocabulary_) == 400
    assert model.report_["prompt_terms"] == len(model.prompts_.vocabulary_) == 80
    assert model.report_["term_penalty"] == 10
    assert model.report_["structure_penalty"] == 100
    texts = ["\n\n".join(turns) for c in ("response_a", "response_b") for turns in pairs[c]]
    options = {"ngram_range": (1, 2), "token_pattern": r"\w+", "sublinear_tf": True}
    expected = TfidfVectorizer(min_df=2, max_features=400, **options)
    expected.fit(list(dict.fromkeys([*texts, *texts])))
    np.testing.assert_array_equal(
        model.responses_.get_feature_names_out(), expected.get_feature_names_out()
    )
    np.testing.assert_allclose(model.responses_.idf_, expected.idf_)


@pytest.mark.parametrize("options", [{"max_terms": 0}, {"min_rows": 10_000}])
def test_without_terms_there_is_structure_alone(pairs, tmp_path, options):
    answers = pairs.assign(
        prompt=[(f"p{i}",) for i in range(len(pairs))],
        response_a=[(f"a{i}",) for i in range(len(pairs))],
        response_b=[(f"b{i} !",) for i in range(len(pairs))],
    )
    model = SparseModel(**options, **FEW).fit(answers, labels_of(pairs))
    assert model.responses_ is None
    assert model.prompts_ is None
    assert model.report_["terms"] == model.report_["prompt_terms"] == 0
    assert model.regression_.w_.shape == (len(ANTISYMMETRIC),)
    assert model.regression_.v_.shape == (len(SYMMETRIC) + 1,)
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.responses_ is None
    np.testing.assert_array_equal(loaded.predict_proba(pairs), model.predict_proba(pairs))


def test_many_texts_in_several_processes_are_the_same(model, pairs, monkeypatch):
    alone = model.predict_proba(pairs)
    calls = []

    def in_parts(work, items, processes, name):
        calls.append(processes)
        return [work(items[:50]), work(items[50:])]

    monkeypatch.setattr(sparse, "PROCESS_CHARACTERS", 10)
    monkeypatch.setattr(sparse, "processes_for", lambda characters, each: (characters, each))
    monkeypatch.setattr(sparse, "in_parts", in_parts)
    np.testing.assert_array_equal(model.predict_proba(pairs), alone)
    assert calls[2] == (sum(len("\n\n".join(turns)) for turns in pairs["prompt"]), 10)


def test_nltk_finds_the_words(monkeypatch):
    """Its tokens are taken whole, punctuation and all."""
    monkeypatch.setattr(sparse, "preprocess", lambda texts, how: [f"{how}: c++ {t}" for t in texts])
    frame = pd.DataFrame({"prompt": ["p", "q"], "response_a": "yes!", "response_b": "no"})
    model = SparseModel(preprocess="nltk", min_rows=1, word_ngrams=1).fit(as_pairs(frame), [0, 1])
    assert set(model.responses_.vocabulary_) == {"nltk:", "c++", "yes!", "no"}
    plain = SparseModel(min_rows=1, word_ngrams=1).fit(as_pairs(frame), [0, 1])
    assert set(plain.responses_.vocabulary_) == {"yes", "no"}
    assert isinstance(plain.responses_.transform(["yes no"]), csr_matrix)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("prompts"),
        lambda values: values.update(responses="text"),
        lambda values: values["responses"].__setitem__(0, values["responses"][1]),
    ],
)
def test_vocabularies_are_read_strictly(model, tmp_path, change):
    model.save(tmp_path)
    path = tmp_path / "vocabulary.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"does not fit|cannot be used|expected shape"):
        load_model(tmp_path)


def test_a_term_more_does_not_fit_the_weights(model, tmp_path):
    model.save(tmp_path)
    path = tmp_path / "vocabulary.json"
    values = json.loads(path.read_text())
    assert values["prompts"] == sorted(values["prompts"])
    path.write_text(json.dumps(values | {"prompts": [*values["prompts"], "zzz"]}))
    with pytest.raises(InputError, match=r"weight v: expected shape \(\d+,\), got"):
        load_model(tmp_path)
