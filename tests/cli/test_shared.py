import argparse
from pathlib import Path

from humanpref.cli.shared import add_overrides, add_path, add_study, metrics_line

METRICS = {
    "rows": 3,
    "log_loss": 1.0,
    "log_loss_low": 0.9,
    "log_loss_high": 1.1,
    "accuracy": 0.5,
    "prior_log_loss": 1.0986,
}


def test_metrics_in_one_line():
    line = (
        "validation: 3 rows, log loss 1.0000 [0.9000, 1.1000], accuracy 0.500, "
        "the prior's log loss 1.0986"
    )
    assert metrics_line("validation", METRICS) == line
    assert metrics_line("validation", METRICS | {"rows_trained_on": 0}) == line
    tied = {"decided_rows": 2, "decided_auc": 0.75, "decided_brier": 0.2}
    assert metrics_line("validation", METRICS | tied) == line
    without_ties = line.replace("0.500, ", "0.500, AUC 0.750, Brier 0.200, ")
    assert metrics_line("validation", METRICS | tied | {"decided_rows": 3}) == without_ties
    worse = metrics_line("validation", METRICS | {"log_loss": 1.0987})
    assert worse.endswith("the prior's log loss 1.0986; warning: worse than the prior")
    same = metrics_line("validation", METRICS | {"log_loss": 1.0986})
    assert "warning" not in same
    flattered = f"{line}; optimistic: trained on 2 of these rows"
    assert metrics_line("validation", METRICS | {"rows_trained_on": 2}) == flattered


def test_arguments_of_a_study():
    parser = argparse.ArgumentParser()
    add_study(parser)
    command = "--train a.csv --format plain --out b --folds 3 --set x=1 y=2 --set z=3"
    assert vars(parser.parse_args(command.split())) == {
        "train": Path("a.csv"),
        "format": "plain",
        "out": Path("b"),
        "folds": 3,
        "set": ["x=1", "y=2", "z=3"],
    }


def test_paths_and_overrides_have_defaults():
    parser = argparse.ArgumentParser()
    add_path(parser, "--csv", "FILE")
    add_overrides(parser)
    assert vars(parser.parse_args([])) == {"csv": None, "set": []}
    assert parser.parse_args(["--csv", "x"]).csv == Path("x")
