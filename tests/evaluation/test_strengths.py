import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from humanpref.arena import make_arena
from humanpref.arena.vocabulary import MODELS
from humanpref.data import swap_pairs
from humanpref.evaluation.strengths import model_strengths


def battles(*rows):
    """One row per (model_a, model_b, class)."""
    frame = pd.DataFrame([row[:2] for row in rows], columns=["model_a", "model_b"])
    frame[["winner_model_a", "winner_model_b", "winner_tie"]] = np.eye(3)[[row[2] for row in rows]]
    return frame


def test_two_models_by_hand():
    # 2,000 wins, 1,000 losses and 1,500 ties in either order: d = ln 2, exp(nu) = 1500 / sqrt(2000
    # * 1000), no order effect.
    rows = [("x", "y", 0)] * 2000 + [("x", "y", 1)] * 1000 + [("x", "y", 2)] * 1500
    both = pd.concat([battles(*rows), swap_pairs(battles(*rows))], ignore_index=True)
    ranking, metrics = model_strengths(both)
    assert ranking["model"].tolist() == ["x", "y"]
    assert ranking["strength"].diff().iloc[1] == pytest.approx(-np.log(2), abs=1e-3)
    assert metrics["tie_score"] == pytest.approx(np.log(1500 / np.sqrt(2e6)), abs=1e-3)
    assert metrics["first"] == pytest.approx(0, abs=1e-3)
    # Without an effect of ties or order, var(d) of 2 * 3,000 decided rows is 1 / 4000 + 1 / 2000; a
    # strength is half of d.
    half = (ranking["high"] - ranking["low"])[0] / 2
    assert half == pytest.approx(1.96 * np.sqrt(1 / 4000 + 1 / 2000) / 2, rel=0.01)


def test_without_ties_there_is_no_tie_score():
    rows = [("x", "y", 0)] * 2000 + [("x", "y", 1)] * 1000
    both = pd.concat([battles(*rows), swap_pairs(battles(*rows))], ignore_index=True)
    ranking, metrics = model_strengths(both.drop(columns="winner_tie"))
    assert ranking["strength"].diff().iloc[1] == pytest.approx(-np.log(2), abs=1e-3)
    assert set(metrics) == {"rows", "groups", "first", "first_low", "first_high"}
    half = (ranking["high"] - ranking["low"])[0] / 2
    assert half == pytest.approx(1.96 * np.sqrt(1 / 4000 + 1 / 2000) / 2, rel=0.01)


def test_the_order_is_told_from_the_strength():
    # y always answers second, x and z change places: A wins twice as often as B whoever it is.
    rows = (
        [("x", "z", 0)] * 200
        + [("x", "z", 1)] * 100
        + [("z", "x", 0)] * 200
        + [("z", "x", 1)] * 100
    )
    ranking, metrics = model_strengths(battles(*rows))
    assert metrics["first"] == pytest.approx(np.log(2), abs=0.01)
    assert ranking["strength"].abs().max() < 1e-3


@pytest.mark.slow
def test_recovers_the_generators_strengths():
    arena = make_arena(6_000, seed=3)
    ranking, metrics = model_strengths(arena.train)
    true = ranking["model"].map(MODELS["strength"])
    assert spearmanr(ranking["strength"], true).statistic > 0.95
    centred = true - true.mean()
    assert np.mean((ranking["low"] <= centred) & (centred <= ranking["high"])) >= 0.8
    assert np.polyfit(centred, ranking["strength"], 1)[0] == pytest.approx(1, abs=0.15)
    assert metrics["first_low"] < 0 < metrics["first_high"]


def test_models_that_always_won_or_never_met_stay_finite():
    rows = [("a", "b", 0)] * 5 + [("c", "d", 1)] * 3 + [("e", "e", 0)]
    ranking, metrics = model_strengths(battles(*rows))
    assert np.isfinite(ranking[["strength", "low", "high"]]).all(axis=None)
    assert metrics["groups"] == 3
    assert ranking.set_index("model")["group"].loc[["a", "b"]].tolist() == [1, 1]
    assert ranking.set_index("model")["rows"].to_dict() == {"a": 5, "b": 5, "c": 3, "d": 3, "e": 1}
    strength = ranking.set_index("model")["strength"]
    assert strength["a"] > strength["b"]
    assert strength["d"] > strength["c"]
