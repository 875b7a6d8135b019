"""Train the judge that comes with the package, judge it on grouped folds, and write its two files:
`judge.json`, numbers by the name of their feature, and `card.md`.

    python benchmarks/packaged_judge.py --train CSV --source TEXT --origin TEXT --out FOLDER
        [--transfer CSV] [--against PRESET …] [--folds 5] [--seed 42]

The model is preset `sparse` with `model.max_terms=0`: a Davidson regression on structural features.
The shipped files came from the competition's first 1,000 training rows, `--transfer pandalm.csv
--against sparse boosted` and the defaults. Nothing of the rows' texts, ids or model names is
written, nor any path. Printed: the table that `docs/results.md` has.
"""

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from humanpref import build_model, load_config, read_pairs
from humanpref.data import (
    digest_of,
    grouped_folds,
    labels_of,
    positive_weight_mask,
    prompt_keys,
    weights_of,
)
from humanpref.evaluation.intervals import share_interval
from humanpref.evaluation.metrics import accuracy, bootstrap_interval
from humanpref.files import write_whole
from humanpref.interfaces.linear import CARD_FILE, CONSTANT, MODEL_FILE
from humanpref.logloss import row_log_losses
from humanpref.models.blocks import CLIP_STD
from humanpref.models.sparse import SparseModel
from humanpref.text.features import ANTISYMMETRIC, SYMMETRIC

DIGITS = 7
"""Significant digits of the numbers that are written."""
NAME = "packaged"
SETTINGS = {NAME: ("sparse", None, ("model.max_terms=0",))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--source", required=True, help='what the rows are: "rows of …"')
    parser.add_argument("--origin", required=True, help="their data set and its license")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--transfer", type=Path, help="labeled rows from elsewhere")
    parser.add_argument("--against", nargs="*", default=[], help="presets on the same folds")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    pairs = usable(options.train)
    model = fitted(NAME, pairs, options.seed)
    judged = {
        name: out_of_fold(name, pairs, options.folds, options.seed)
        for name in ("prior", *options.against, NAME)
    }
    print(f"{len(pairs)} rows, {options.folds} grouped folds, seed {options.seed}")
    print(table(judged, pairs))
    facts = facts_of(pairs, judged[NAME]) | {"folds": options.folds, "seed": options.seed}
    facts |= {"source": options.source, "origin": options.origin}
    facts["prior"] = losses_of(judged["prior"], pairs)
    if options.transfer is not None:
        other = usable(options.transfer)
        rates = np.tile(labels_of(pairs).mean(axis=0), (len(other), 1))
        elsewhere = {"prior": rates, NAME: model.predict_proba(other)}
        print(f"\n{len(other)} rows from elsewhere")
        print(table(elsewhere, other))
        facts["transfer"] = {
            "rows": len(other),
            **{name: losses_of(own, other) for name, own in elsewhere.items()},
        }
    write(options.out, model, facts)


def usable(path: Path) -> pd.DataFrame:
    """Read the labeled rows whose weight is not 0."""
    pairs = read_pairs(path, labels=True)
    return pairs[positive_weight_mask(pairs, path)].reset_index(drop=True)


def fitted(name: str, pairs: pd.DataFrame, seed: int) -> Any:
    """Fit the packaged judge, or a preset, to the rows."""
    preset, file, overrides = SETTINGS.get(name, (name, None, ()))
    model = build_model(load_config(preset, file, (*overrides, f"seed={seed}")))
    return model.fit(pairs, labels_of(pairs), weights_of(pairs))


def out_of_fold(name: str, pairs: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Predict every row by a model that did not see its prompt, (n, 3)."""
    fold_of = grouped_folds(pairs, folds, seed)
    probabilities = np.empty((len(pairs), 3))
    for fold in range(folds):
        held = fold_of == fold
        kept, out = (pairs[rows].reset_index(drop=True) for rows in (~held, held))
        probabilities[held] = fitted(name, kept, seed).predict_proba(out)
    return probabilities


def losses_of(probabilities: np.ndarray, pairs: pd.DataFrame) -> list[float]:
    """The mean log loss with its 95 % interval over prompts."""
    losses = row_log_losses(labels_of(pairs), probabilities)
    return [float(losses.mean()), *map(float, bootstrap_interval(losses, prompt_keys(pairs)))]


def table(judged: dict[str, np.ndarray], pairs: pd.DataFrame) -> str:
    """Each model's log loss, and its paired difference to the packaged one (negative: better)."""
    labels, keys = labels_of(pairs), prompt_keys(pairs)
    reference = row_log_losses(labels, judged[NAME])
    lines = [
        "| model | log loss | 95 % interval | accuracy | against the packaged | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for name, probabilities in judged.items():
        loss, low, high = losses_of(probabilities, pairs)
        difference = row_log_losses(labels, probabilities) - reference
        paired = bootstrap_interval(difference, keys)
        against = f"{difference.mean():+.4f} | {paired[0]:+.4f} to {paired[1]:+.4f}"
        against = "– | –" if name == NAME else against
        share = accuracy(labels, probabilities)
        lines.append(f"| {name} | {loss:.4f} | {low:.4f} to {high:.4f} | {share:.3f} | {against} |")
    return "\n".join(lines)


def facts_of(pairs: pd.DataFrame, probabilities: np.ndarray) -> dict[str, Any]:
    """Count the rows, and how often people and the judge favor the longer answer."""
    labels = labels_of(pairs)
    a, b = (
        pairs[column].map(lambda turns: sum(map(len, turns))).to_numpy()
        for column in ("response_a", "response_b")
    )
    longer = np.sign(a - b)
    by_people = np.sign(labels[:, 0] - labels[:, 1])
    by_judge = np.sign(probabilities[:, 0] - probabilities[:, 1])
    decided = (longer != 0) & (by_people != 0)
    facts = {
        "rows": len(pairs),
        "rows_sha256": digest_of(pairs),
        "class_rates": labels.mean(axis=0).tolist(),
        "log_loss": losses_of(probabilities, pairs),
        "accuracy": accuracy(labels, probabilities),
    }
    for name, choice, rows in (
        ("people_longer", by_people, decided),
        ("judge_longer", by_judge, longer != 0),
    ):
        same, count = int((choice == longer)[rows].sum()), int(rows.sum())
        facts[name] = [same / count, *map(float, share_interval(same, count))]
    of_longer = np.where(longer > 0, probabilities[:, 0], probabilities[:, 1])
    share = of_longer / probabilities[:, :2].sum(axis=1)
    facts["probability_longer"] = float(share[decided].mean())
    return facts


def written_form(model: SparseModel, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `judge.json`."""
    regression, scales = model.regression_, model.scales_
    # The last symmetric column is the cosine of the answers' terms, of which there are none.
    if model.responses_ is not None or regression.v_[-1] != 0:
        raise ValueError("expected a sparse model without words")
    columns = {
        "d": (ANTISYMMETRIC, scales.x_scale, regression.w_),
        "nu": (SYMMETRIC, scales.z_mean, scales.z_scale, regression.v_[:-1]),
    }
    loss, low, high = facts["log_loss"]
    about = (
        f"The packaged judge sees length, layout and word statistics, not what an answer says. "
        f"Log loss {loss:.3f} ({low:.3f} to {high:.3f}; class rates alone {facts['prior'][0]:.3f}) "
        f"on {facts['rows']:,} held-out {facts['source']}. It favors the longer answer in "
        f"{facts['judge_longer'][0]:.0%} of pairs; people did in {facts['people_longer'][0]:.0%}."
    )
    return {
        "about": about,
        "facts": _rounded(facts),
        "clip": CLIP_STD,
        CONSTANT: _rounded(float(regression.c_)),
        **{
            score: {
                name: _rounded([float(value) for value in numbers])
                for name, *numbers in zip(names, *arrays, strict=True)
            }
            for score, (names, *arrays) in columns.items()
        },
    }


def _rounded(value: Any) -> Any:
    """Round every number in a nested value to `DIGITS` significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_rounded(own) for own in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def write(folder: Path, model: SparseModel, facts: dict[str, Any]) -> None:
    """Write `judge.json` and `card.md`; nothing else in the folder changes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = written_form(model, facts)
    text = json.dumps(content, indent=1)
    with write_whole(folder / MODEL_FILE) as file:  # a feature a line
        file.write(re.sub(r"\[[^]]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n")
    with write_whole(folder / CARD_FILE) as file:
        file.write(card(content))


def card(content: dict[str, Any]) -> str:
    """Return the model card."""
    facts = content["facts"]
    loss, prior = facts["log_loss"], facts["prior"]
    named = zip(("A", "B", "tie"), facts["class_rates"], strict=True)
    rates = ", ".join(f"{name} {100 * rate:.1f} %" for name, rate in named)
    lines = [
        f"Trained by `benchmarks/packaged_judge.py` on {facts['rows']:,} {facts['source']} "
        f"({facts['origin']}). Labels: {rates}. Digest of the rows: "
        f"{facts['rows_sha256'][:16]}…. `judge.json` holds the scale and the weight of each "
        "feature and the numbers below; it contains no text, id or name from the rows.",
        f"Log loss out of fold ({facts['folds']} folds grouped by prompt, seed {facts['seed']}): "
        f"{loss[0]:.4f}, 95 % interval {loss[1]:.4f} to {loss[2]:.4f}. Predicting only the class "
        f"rates: {prior[0]:.4f} ({prior[1]:.4f} to {prior[2]:.4f}). Accuracy over "
        f"the three classes: {facts['accuracy']:.3f}, so a single verdict is weak evidence.",
        "{} the longer answer in {:.1f} % ({:.1f} to {:.1f}) of the pairs whose answers differ in "
        "length; people preferred it in {:.1f} % ({:.1f} to {:.1f}) of those that they did not "
        "call a tie. In these, the judge gives the longer answer a probability of {:.1f} % on "
        "average. So on average, the judge leans toward length no more than people do, but it "
        "leans that way in far more pairs.".format(
            "**Known bias: length.** Out of fold, the judge favors",
            *(100 * share for share in (*facts["judge_longer"], *facts["people_longer"])),
            100 * facts["probability_longer"],
        ),
        "It counts characters, words, sentences, list items and the like. It does not know what an "
        "answer says, so a long wrong answer can beat a short right one. Do not train a policy "
        "against it without a limit on length, and do not rank models by it alone.",
    ]
    if transfer := facts.get("transfer"):
        own, rates = transfer[NAME], transfer["prior"]
        lines.append(
            f"**Elsewhere it may be no better than chance.** On {transfer['rows']} rows of another "
            f"source (short answers, few ties) its log loss is {own[0]:.4f} ({own[1]:.4f} to "
            f"{own[2]:.4f}); the training rows' class rates reach {rates[0]:.4f} ({rates[1]:.4f} "
            f"to {rates[2]:.4f})."
        )
    lines.append(
        "If you swap A and B, their probabilities swap exactly. Texts are read in full. To judge "
        "your own data, train your own model: `humanpref train`, then `humanpref judge --model "
        "ARTIFACT`."
    )
    paragraphs = [
        textwrap.fill(line, 120, break_long_words=False, break_on_hyphens=False) for line in lines
    ]
    return "\n\n".join(["# The packaged judge", *paragraphs]) + "\n"


if __name__ == "__main__":
    main()
