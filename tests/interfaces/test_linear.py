"""The packaged judge: the same probabilities as the model that it was written from, in shares that
add up, without anything but numpy."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from humanpref.config import load_config
from humanpref.data import labels_of, swap_pairs
from humanpref.interfaces.linear import (
    CARD_FILE,
    CONSTANT,
    MODEL_FILE,
    PACKAGED,
    LinearModel,
    Shares,
    probabilities_of,
)
from humanpref.models import build_model
from humanpref.schema import SWAPPED_CLASSES, InputError
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    """benchmarks/packaged_judge.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("packaged_judge")


@pytest.fixture(scope="module")
def fitted(pairs):
    settings = ("model.max_terms=0", "model.structure_penalties=10")
    return build_model(load_config("sparse", None, settings)).fit(pairs, labels_of(pairs))


@pytest.fixture(scope="module")
def written(script, fitted, pairs, tmp_path_factory):
    """What the script writes of a model that was fitted to the arena's rows."""
    folder = tmp_path_factory.mktemp("packaged")
    probabilities = fitted.predict_proba(pairs)
    facts = script.facts_of(pairs, probabilities) | {"source": "rows", "folds": 2, "seed": 1}
    facts |= {"origin": "made up"}
    script.write(folder, fitted, facts | {"prior": script.losses_of(probabilities, pairs)})
    return folder


def test_it_predicts_as_the_sparse_model_that_it_was_written_from(written, fitted, pairs):
    model = LinearModel.load(written / MODEL_FILE)
    # Seven digits are written.
    difference = np.abs(model.predict_proba(pairs) - fitted.predict_proba(pairs))
    assert difference.max() < 1e-6
    assert "rows" in model.about
    assert "longer answer" in (written / CARD_FILE).read_text("utf-8")


def test_the_shares_are_the_logits_exactly(pairs):
    model = LinearModel.load()
    shares, probabilities = model.shares(pairs), model.predict_proba(pairs)
    assert [part.shape for part in shares] == [(len(pairs), 22), (len(pairs), 53)]
    assert np.count_nonzero(shares.d) > len(pairs)
    for d, nu, own in zip(shares.d, shares.nu, probabilities, strict=True):
        logits = np.array([math.fsum(d) / 2, -math.fsum(d) / 2, math.fsum(nu)])
        odds = np.exp(logits - logits.max())
        assert own.tolist() == (odds / odds.sum()).tolist()
        # In any order of the features.
        assert math.fsum(d[::-1]) == math.fsum(d)


def test_exchanging_a_and_b_is_exact(pairs):
    model = LinearModel.load()
    swapped = model.predict_proba(swap_pairs(pairs))
    assert (swapped[:, SWAPPED_CLASSES] == model.predict_proba(pairs)).all()


def test_large_scores_stay_probabilities():
    probabilities = probabilities_of(Shares(np.array([[5e3], [0.0]]), np.array([[1.0], [-5e3]])))
    assert probabilities.tolist() == [[1, 0, 0], [0.5, 0.5, 0]]


def test_the_packaged_files_hold_numbers_their_source_and_figures():
    content = json.loads((PACKAGED / MODEL_FILE).read_text("utf-8"))
    assert list(content) == ["about", "facts", "clip", CONSTANT, "d", "nu"]
    assert tuple(content["d"]) == ANTISYMMETRIC
    assert tuple(content["nu"]) == SYMMETRIC
    assert content["facts"]["log_loss"][1] < content["facts"]["log_loss"][0] < 1.05
    card = (PACKAGED / CARD_FILE).read_text("utf-8")
    assert f"{content['facts']['log_loss'][0]:.4f}" in card
    assert "length" in content["about"]


def test_a_longer_answer_with_a_list_is_favored():
    # The bias that the card names.
    pairs = {"prompt": [("Why?",)], "response_a": [("So.\n\n- one\n- two\n" * 9,)]}
    (p_a, p_b, _) = LinearModel.load().predict_proba({**pairs, "response_b": [("So.",)]})[0]
    assert p_a > 2 * p_b


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["d"].pop("empty_difference"),
        lambda content: content["nu"].update(jaccard=[1.0, 2.0]),
        lambda content: content["d"].update(empty_difference=[1.0, float("nan")]),
        lambda content: content.pop("clip"),
    ],
    ids=["feature", "numbers", "nan", "key"],
)
def test_a_damaged_file_is_refused(written, tmp_path, damage):
    content = json.loads((written / MODEL_FILE).read_text("utf-8"))
    damage(content)
    (tmp_path / "judge.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"judge\.json: not a linear judge"):
        LinearModel.load(tmp_path / "judge.json")


def test_a_missing_or_broken_file_is_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(InputError, match="not a linear judge"):
            LinearModel.load(tmp_path / name)


def test_a_model_with_words_cannot_be_written(script, pairs):
    settings = ("model.structure_penalties=10", "model.term_penalties=10")
    model = build_model(load_config("sparse", None, settings)).fit(pairs, labels_of(pairs))
    with pytest.raises(ValueError, match="without words"):
        script.written_form(model, {"log_loss": [1, 1, 1]})


def test_one_judgement_imports_numpy_and_nothing_larger():
    code = (
        "import sys; from humanpref.cli.main import main; "
        "code = main(['judge', '--prompt', 'Why?', '--a', 'So.', '--b', 'Because.']); "
        "large = {'pandas', 'sklearn', 'scipy', 'joblib', 'torch', 'transformers'}; "
        "assert not code and 'numpy' in sys.modules; assert not large & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("P(A) 0.")
