"""The progress of a training run."""

from dataclasses import asdict

from humanpref.training.progress import Progress


def test_a_run_begins_with_nothing_done():
    values = asdict(Progress())
    assert values.pop("epochs") == []
    assert values.pop("stopped") is None
    assert set(values.values()) == {0}
