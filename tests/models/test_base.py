"""Models as scikit-learn's estimators: parameters, clones, its splits and its search."""

import copy
import doctest
import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict

from humanpref.config import FAMILIES, SECTIONS, load_config
from humanpref.config.neural import EncoderInference, EncoderOptions, GradientTraining
from humanpref.data import labels_of, prompt_keys
from humanpref.models import base, build_model, load_model
from humanpref.models.base import as_probabilities
from humanpref.models.prior import PriorModel
from humanpref.models.sparse import SparseModel
from humanpref.schema import InputError

NEURAL = ("encoder", "decoder", "dpo")
PRESETS = {
    "prior": "prior",
    "sparse": "sparse",
    "boosted": "boosted",
    "embedding": "embedding",
    "blend": "cpu-best",
    "encoder": "tiny",
    "decoder": "llama-3.2-1b-lora",
    "dpo": "llama-3.2-1b-dpo",
}
GRIDS = {
    "prior": {"seed": [0, 1]},
    "sparse": {"max_terms": [0, 200]},
    "boosted": {"leaves": [2, 4]},
    "embedding": {"components": [1, 4]},
}
QUICK = {
    "prior": {},
    "sparse": {"term_penalties": [10.0], "structure_penalties": [100.0]},
    "boosted": {"rounds": 5, "max_rounds": 10, "seeds": 1},
    "embedding": {"embedding_penalties": [100.0], "structure_penalties": [100.0]},
}


@pytest.fixture(params=list(FAMILIES))
def config(request):
    if request.param in ("embedding", *NEURAL):
        pytest.importorskip("torch")
    if request.param in ("decoder", "dpo"):
        pytest.importorskip("peft")
    if request.param == "boosted":
        pytest.importorskip("xgboost")
    return load_config(PRESETS[request.param], overrides=["seed=7"])


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name == "embedding" else [])
        for name in GRIDS
    ]
)
def quick(request):
    """A CPU family's model with quick options."""
    if request.param == "boosted":
        pytest.importorskip("xgboost")
    model = build_model(load_config(request.param)).set_params(**QUICK[request.param])
    if request.param == "embedding":
        model.set_params(backbone=str(request.getfixturevalue("sentence_encoder")))
    return model


@pytest.fixture
def few(pairs):
    return pairs[:60]


@pytest.fixture
def classes(pairs):
    return labels_of(pairs).argmax(axis=1)


def test_the_options_are_the_parameters(config):
    model = build_model(config)
    if config.family in NEURAL:
        expected = {section: getattr(config, section) for section in SECTIONS}
    else:
        expected = vars(config.model) | vars(config.inference) | {"classes": None}
    assert model.get_params() == expected | {"seed": 7}
    assert model.config == config
    assert is_classifier(model)
    defaults = {
        name: each.default for name, each in inspect.signature(type(model)).parameters.items()
    }
    assert defaults == type(model)().get_params()


def test_clones_and_copies_have_the_same_options(config):
    model = build_model(config)
    assert clone(model).get_params() == model.get_params()
    for copied in (copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert copied.config == config
    assert copy.copy(model).set_params(seed=8).config.seed == 8
    assert model.config.seed == 7


def test_a_constructor_stores_its_arguments_and_nothing_else():
    model = SparseModel(max_terms=-1, term_penalties=[1, 2])
    assert vars(model) == SparseModel().get_params() | {"max_terms": -1, "term_penalties": [1, 2]}
    assert repr(model) == "SparseModel(max_terms=-1, term_penalties=[1, 2])"
    with pytest.raises(TypeError, match="unknown option 'max_term'; expected preprocess, "):
        SparseModel(max_term=1)
    with pytest.raises(ValueError, match="Invalid parameter 'max_term'"):
        model.set_params(max_term=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_terms": -1}, "option model.max_terms: expected at least 0, got -1"),
        ({"term_penalties": []}, "option model.term_penalties: expected positive numbers"),
        ({"seed": -1}, "option seed: expected a whole number from 0 to"),
    ],
)
def test_fit_validates(options, message, pairs):
    with pytest.raises(InputError, match=message):
        SparseModel(**options).fit(pairs, labels_of(pairs))


def test_a_neural_family_takes_three_sections(pairs):
    pytest.importorskip("torch")
    from humanpref.models.encoder import EncoderModel

    options = EncoderOptions(max_length=32, scratch_hidden_size=8, scratch_vocabulary=300)
    inference = EncoderInference(batch_tokens=4_096)
    model = EncoderModel(model=options, training=GradientTraining(seeds=2), inference=inference)
    assert (model.config.model, model.config.training.seeds) == (options, 2)
    made = clone(model).fit(pairs[:20], labels_of(pairs[:20])).predict_proba(pairs[:5])
    assert made.shape == (5, 3)
    with pytest.raises(InputError, match="option training: expected GradientTraining, got None"):
        model.set_params(training=None).fit(pairs, labels_of(pairs))


def test_what_is_no_parameter_comes_from_the_configuration_and_is_saved(tmp_path, pairs):
    config = load_config("sparse", overrides=["training.validation_fraction=0"])
    model = build_model(config).set_params(max_terms=9, structure_penalties=[1.0])
    model.fit(pairs, labels_of(pairs)).save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert (loaded.config.preset, loaded.config.training.validation_fraction) == ("sparse", 0)
    assert clone(loaded).get_params() == loaded.get_params()


def test_the_number_of_classes_is_a_parameter(pairs):
    decided = pairs[pairs["winner_tie"] == 0]
    model = clone(SparseModel(classes=2, term_penalties=[10.0], structure_penalties=[100.0]))
    made = model.fit(decided, labels_of(decided)).predict_proba(pairs)
    np.testing.assert_array_equal(made[:, 2], 0)
    with pytest.raises(InputError, match="classes: expected a whole number from 2 to 3, got 4"):
        PriorModel(classes=4).fit(pairs, labels_of(pairs))


def test_prediction_and_score(pairs, classes):
    model = PriorModel().fit(pairs, classes)
    rates = np.bincount(classes) / len(classes)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    np.testing.assert_array_equal(model.predict(pairs), [rates.argmax()] * len(pairs))
    expected = -log_loss(classes, model.predict_proba(pairs), labels=[0, 1, 2])
    assert model.score(pairs, classes) == pytest.approx(expected)
    assert model.score(pairs, np.eye(3)[classes]) == pytest.approx(expected)
    weights = (classes == 0).astype(float)
    assert model.score(pairs, classes, weights) == pytest.approx(np.log(rates[0]))


def test_scikit_learn_predicts_out_of_fold(quick, few, classes):
    # An index of its own, as rows taken from a larger frame have it.
    frame = few.set_index(few.index * 3 + 5)
    made = cross_val_predict(
        quick,
        frame,
        classes[:60],
        groups=prompt_keys(few),
        method="predict_proba",
        cv=GroupKFold(3),
    )
    assert not hasattr(quick, "report_")
    for learned, judged in GroupKFold(3).split(few, groups=prompt_keys(few)):
        fitted = clone(quick).fit(few.iloc[learned], classes[learned])
        np.testing.assert_allclose(made[judged], fitted.predict_proba(few.iloc[judged]), atol=1e-6)


@pytest.mark.slow
def test_scikit_learn_searches_the_options(quick, few, classes):
    grid = GRIDS[quick.family]
    search = GridSearchCV(quick, grid, cv=GroupKFold(2))
    search.fit(few, classes[:60], groups=prompt_keys(few))
    (name, values), losses = *grid.items(), -search.cv_results_["mean_test_score"]
    assert search.best_params_ == {name: values[losses.argmin()]}
    assert ((losses > 0.5) & (losses < 3)).all()
    assert getattr(search.best_estimator_, name) == search.best_params_[name]
    assert search.predict(few).shape == (60,)


def test_labels_are_classes_or_probabilities():
    np.testing.assert_array_equal(as_probabilities([2, 0]), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(as_probabilities(pd.Series([1.0])), [[0, 1, 0]])
    np.testing.assert_array_equal(as_probabilities([[0.2, 0.3, 0.5]]), [[0.2, 0.3, 0.5]])
    for wrong in ([3], [[1, 0]], [[0.5, 0.4, 0.0]], [[1.5, -0.5, 0.0]]):
        with pytest.raises(ValueError, match="expected labels of shape"):
            as_probabilities(wrong)


def test_the_examples_hold():
    texts = {column: ["Why?"] * 4 for column in ("prompt", "response_a", "response_b")}
    pairs = pd.DataFrame(texts)
    model = PriorModel().fit(pairs, [0, 0, 1, 2])
    found = doctest.testmod(base, extraglobs={"pairs": pairs, "model": model})
    assert found.attempted >= 9
    assert found.failed == 0


@pytest.mark.slow
def test_a_row_of_weight_0_is_the_same_as_none(pairs):
    """Its words are in no vocabulary, and its prompt is in no inner fold."""
    labels, weights = labels_of(pairs), np.arange(len(pairs)) % 3 / 2
    kept = weights > 0
    fitted = SparseModel(min_rows=1).fit(pairs, labels, weights)
    without = SparseModel(min_rows=1).fit(
        pairs[kept].reset_index(drop=True), labels[kept], weights[kept]
    )
    assert fitted.report_ == without.report_
    np.testing.assert_array_equal(fitted.predict_proba(pairs), without.predict_proba(pairs))
    with pytest.raises(InputError, match="at least one row of positive weight, got none"):
        PriorModel().fit(pairs, labels, np.zeros(len(pairs)))


def test_every_validation_row_needs_a_label(pairs):
    """An encoder would notice only after its first epoch."""
    labels = labels_of(pairs)
    with pytest.raises(InputError, match=r"validation labels: expected one per row \(3\), got 2"):
        PriorModel().fit(pairs, labels, validation=(pairs[:3], labels[:2]))
