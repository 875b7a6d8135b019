"""A bar on a terminal, about ten log lines elsewhere."""

import pytest

from humanpref import bar
from humanpref.bar import Bar
from humanpref.config import load_config
from humanpref.data import labels_of
from humanpref.models import build_model
from humanpref.text import processes


class Clock:
    """Advances by `seconds` at each look."""

    def __init__(self, seconds):
        self.now, self.seconds = -seconds, seconds

    def perf_counter(self):
        self.now += self.seconds
        return self.now


def lines(caplog, monkeypatch, steps, done, seconds=2, **options):
    monkeypatch.setattr(bar, "time", Clock(seconds))
    caplog.clear()
    with caplog.at_level("INFO"):
        shown = Bar("epoch 1/2", steps, done, **options)
        for _ in range(done, steps):
            shown.advance(1, "mean loss 0.5000")
        shown.close()
    return caplog.messages


def test_ten_lines_where_there_is_no_terminal(caplog, monkeypatch):
    messages = lines(caplog, monkeypatch, steps=40, done=0, quiet=0)
    assert messages[0] == "epoch 1/2: 4 of 40 steps, mean loss 0.5000, 01:12 left"
    assert len(messages) == 10
    assert messages[-1] == "epoch 1/2: 40 of 40 steps, mean loss 0.5000, 00:00 left"


def test_steps_of_an_earlier_session_took_no_time_in_this_one(caplog, monkeypatch):
    messages = lines(caplog, monkeypatch, steps=40, done=34, quiet=0)
    assert messages == [
        "epoch 1/2: 36 of 40 steps, mean loss 0.5000, 00:08 left",
        "epoch 1/2: 40 of 40 steps, mean loss 0.5000, 00:00 left",
    ]


def test_few_steps_have_a_line_each_and_other_processes_none(caplog, monkeypatch):
    assert len(lines(caplog, monkeypatch, steps=3, done=0, quiet=0)) == 3
    assert lines(caplog, monkeypatch, steps=40, done=0, quiet=0, main=False) == []


def test_short_work_writes_nothing_and_long_work_a_first_line_early(caplog, monkeypatch):
    assert lines(caplog, monkeypatch, steps=4, done=0, seconds=2) == []
    # A tenth takes 6 s: a line after 12 s, 24 s, ….
    every_other = lines(caplog, monkeypatch, steps=20, done=0, seconds=3)
    assert every_other[0] == "epoch 1/2: 4 of 20 steps, mean loss 0.5000, 00:48 left"
    assert len(every_other) == 5
    slow = lines(caplog, monkeypatch, steps=1_000, done=0, seconds=30)
    assert slow[:2] == [
        "epoch 1/2: 2 of 1,000 steps, mean loss 0.5000, 8:19:00 left",
        "epoch 1/2: 100 of 1,000 steps, mean loss 0.5000, 7:30:00 left",
    ]
    assert len(slow) == 11


def test_uneven_steps_are_counted_by_what_they_contain(caplog, monkeypatch):
    monkeypatch.setattr(bar, "time", Clock(30))
    with caplog.at_level("INFO"):
        shown = Bar("embed", 1_000, unit="token")
        for tokens in (5, 195, 800):
            shown.advance(tokens)
    assert caplog.messages == [
        "embed: 200 of 1,000 tokens, 04:00 left",
        "embed: 1,000 of 1,000 tokens, 00:00 left",
    ]


def test_items_are_done_when_the_next_one_is_asked_for(caplog, monkeypatch):
    monkeypatch.setattr(bar, "time", Clock(20))
    with caplog.at_level("INFO"):
        for item in bar.shown(["a", "b"], "fitting", "fold"):
            said = [item, *caplog.messages]
    assert said == ["b", "fitting: 1 of 2 folds, 00:20 left"]
    assert caplog.messages[-1] == "fitting: 2 of 2 folds, 00:00 left"


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_has_a_bar_where_there_is_a_terminal(monkeypatch, main):
    bars = []
    monkeypatch.setattr(bar, "tqdm", lambda **options: bars.append(options))
    Bar("epoch 1/2", 40, 34, main=main)
    (options,) = bars
    assert (options["desc"], options["total"], options["initial"]) == ("epoch 1/2", 40, 34)
    assert options["disable"] is (None if main else True)  # tqdm looks for a terminal itself


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "settings", "works"),
    [
        ("sparse", [], ["learning terms", "computing features", "choosing penalties"]),
        (
            "boosted",
            ["model.max_rounds=20", "model.seeds=2"],
            [
                *("computing features", "learning terms", "comparing texts"),
                *("choosing the number of trees, at most", "boosting"),
            ],
        ),
    ],
)
def test_fits_on_the_cpu_tell_the_time_left(caplog, monkeypatch, pairs, preset, settings, works):
    if preset == "boosted":
        pytest.importorskip("xgboost")
    monkeypatch.setattr(bar, "time", Clock(30))
    monkeypatch.setattr(processes, "PART", len(pairs) // 2)
    with caplog.at_level("INFO"):
        build_model(load_config(preset, overrides=settings)).fit(pairs, labels_of(pairs))
    lines = [message for message in caplog.messages if message.endswith(" left")]
    assert {line.partition(":")[0] for line in lines} == {*works}
