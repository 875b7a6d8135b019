"""Units of one model's work within a time budget, by models that take their time on a clock of the
test's own."""

import doctest
import gc
import math
import weakref

import numpy as np
import pandas as pd
import pytest

from humanpref.runs import schedule
from humanpref.runs.budget import ONE_ORDER, UNREAD, Budget
from humanpref.runs.schedule import Schedule, describe, free, most_sensitive_first

FIRST, SECOND, MEAN = [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.65, 0.25, 0.1]
"""What a model says of a row, of the row with A and B exchanged, and the mean of both orders."""


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Timed:
    """A row takes its cost in seconds, or a share of it; a call takes `overhead` once. The journal
    has the variant, the order and the rows of every call."""

    def __init__(self, clock, costs, averaged=False, shorter=(), share=1.0, overhead=0.0):
        self.clock, self.own, self.swap_averaged, self.shares = clock, costs, averaged, shorter
        self.share, self.overhead, self.journal = share, overhead, []
        self.fails, self.bad = {}, ()

    def single_order(self):
        assert self.share == 1
        return self

    def shorter_variants(self):
        variants = []
        for share in self.shares:
            variant = Timed(self.clock, self.own, share=share)
            variant.journal, variant.fails = self.journal, self.fails
            variants.append((f"x{share}", variant))
        return variants

    def costs(self, pairs):
        return self.own[pairs["id"].astype(int)] * self.share

    def predict_proba(self, pairs):
        rows, (order, *others) = pairs["id"].astype(int).tolist(), set(pairs["response_a"])
        assert not others
        assert list(pairs.index) == list(range(len(pairs)))
        self.journal.append((self.share, order[0], rows))
        self.clock.now += self.overhead + self.costs(pairs).sum()
        self.overhead = 0
        for row in rows:
            if row in self.fails:
                raise self.fails[row]
        made = np.tile(FIRST if order[0] == "a" else SECOND, (len(pairs), 1))
        made[np.isin(rows, self.bad)] = np.nan
        return made

    def blocks(self, order, share=1.0):
        return [rows for own, read, rows in self.journal if (own, read) == (share, order)]


def frame(rows):
    one = {"prompt": ("p",), "response_a": ("a",), "response_b": ("b",)}
    return pd.DataFrame([{"id": str(row), **one} for row in range(rows)], columns=["id", *one])


def costliest_first(probabilities, costs):
    return np.argsort(-costs, kind="stable")


@pytest.fixture(autouse=True)
def by_cost(monkeypatch):
    """The rows that get the second order first are the costliest."""
    monkeypatch.setattr(schedule, "most_sensitive_first", costliest_first)


def read(model, seconds=math.inf, rows=None, **options):
    """The last probabilities of each row (n, 3), the results, and the budget."""
    rows = len(model.own) if rows is None else rows
    budget = Budget(seconds, model.clock)
    own = Schedule(model, frame(rows), budget, **options)
    made, results = np.full((rows, 3), np.nan), []
    for result in own.results():
        results.append(result)
        if not isinstance(result.probabilities, str):
            made[result.rows] = result.probabilities
    return made, results, budget


def rows_of(*blocks):
    return [row for block in blocks for row in block]


COSTS = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
ORDER = [5, 7, 4, 2, 0, 6, 1, 3]
"""The rows by cost, the costliest first."""


def test_without_a_budget_everything_is_read_at_once():
    model = Timed(Clock(), COSTS, shorter=(0.5,))
    made, results, budget = read(model)
    assert model.journal == [(1, "a", ORDER)]
    assert [(result.rows.tolist(), result.final) for result in results] == [(ORDER, True)]
    assert made.tolist() == [FIRST] * 8
    assert budget.given_up == {}


def test_rows_come_by_their_cost_in_full_and_not_as_shortened(monkeypatch):
    def costs(self, pairs):
        return COSTS[pairs["id"].astype(int)] if self.share == 1 else np.ones(len(pairs))

    monkeypatch.setattr(Timed, "costs", costs)
    model = Timed(Clock(), COSTS, shorter=(0.5,))
    read(model)
    assert model.blocks("a") == [ORDER]


def test_both_orders_of_a_model_that_averages_them():
    model = Timed(Clock(), COSTS, averaged=True)
    made, results, budget = read(model)
    assert model.journal == [(1, "a", ORDER), (1, "b", ORDER)]
    assert [result.final for result in results] == [False, True]
    assert results[0].probabilities.tolist() == [FIRST] * 8
    np.testing.assert_allclose(made, [MEAN] * 8)
    assert +budget.given_up == {}


def test_no_rows():
    for averaged in (False, True):
        made, results, budget = read(Timed(Clock(), COSTS, averaged), seconds=1, rows=0)
        assert (len(made), results, +budget.given_up) == (0, [], {})


def test_blocks_of_their_share_of_the_time_and_the_rest_at_once():
    """100 rows of 1 second. 4 come first. Then each block is an eighth of 0.9 of the time left, and
    what fits twice is read at once."""
    model = Timed(Clock(), np.ones(100))
    made, _, budget = read(model, seconds=150)
    # floor(0.9 (150 - 4) / 8), floor(0.9 (150 - 4 - 16) / 8), …; 32 are less than 0.9 * 82 / 2.
    assert [len(rows) for rows in model.blocks("a")] == [4, 16, 14, 13, 11, 10, 32]
    assert rows_of(*model.blocks("a")) == list(range(100))
    assert made.tolist() == [FIRST] * 100
    assert budget.given_up == {}


def test_with_time_enough_the_second_block_is_the_last():
    model = Timed(Clock(), np.ones(100))
    read(model, seconds=4 + 2 * 96 / 0.9)
    assert [len(rows) for rows in model.blocks("a")] == [4, 96]
    model = Timed(Clock(), np.ones(100))
    read(model, seconds=4 + 2 * 96 / 0.9 - 0.1)
    assert [len(rows) for rows in model.blocks("a")][:2] == [4, 23]


def test_the_second_order_is_read_as_far_as_the_time_goes(caplog):
    """The first order of all rows takes 100 of 150 seconds; nothing is shortened for the second."""
    model = Timed(Clock(), np.ones(100), averaged=True, shorter=(0.5,))
    made, results, budget = read(model, seconds=150)
    first, second = rows_of(*model.blocks("a")), rows_of(*model.blocks("b"))
    assert first == list(range(100))
    assert second == list(range(len(second)))
    assert 40 < len(second) < 50
    assert 140 < model.clock.now <= 150
    assert budget.given_up == {ONE_ORDER: 100 - len(second)}
    np.testing.assert_allclose(made[: len(second)], [MEAN] * len(second))
    assert made[len(second) :].tolist() == [FIRST] * (100 - len(second))
    assert {result.final for result in results} == {False, True}
    assert caplog.text == ""


def test_which_rows_get_the_second_order_first(monkeypatch):
    seen = []

    def least_costly_first(probabilities, costs):
        seen.append((probabilities.copy(), costs))
        return np.argsort(costs, kind="stable")

    monkeypatch.setattr(schedule, "most_sensitive_first", least_costly_first)
    model = Timed(Clock(), COSTS, averaged=True)
    made, _, budget = read(model, seconds=COSTS.sum() + 9.4)
    assert seen[0][0].tolist() == [FIRST] * 8
    assert seen[0][1].tolist() == COSTS.tolist()
    assert len(seen) == 1
    # 9.4, 8.4, 7.4 and 5.4 seconds are left, of which 0.9 are planned with.
    assert model.blocks("b") == [[1], [3], [6], [0]]
    assert budget.given_up == {ONE_ORDER: 4}
    np.testing.assert_allclose(made[[1, 3, 6, 0]], [MEAN] * 4)


def test_the_rows_that_a_shift_of_the_logits_moves_most_come_first():
    rng = np.random.default_rng(0)
    logits, costs = rng.normal(size=(50, 3)) * 2, rng.uniform(1, 3, size=50)

    def probabilities(shift):
        exp = np.exp(logits + shift * np.array([1, -1, 0]))
        return exp / exp.sum(axis=1, keepdims=True)

    moved = np.square(probabilities(1e-4) - probabilities(-1e-4)).sum(axis=1)
    order = most_sensitive_first(probabilities(0), costs)
    assert order.tolist() == np.argsort(-moved / costs).tolist()


def test_what_does_not_fit_is_shortened_in_order_and_in_time(caplog):
    """100 rows of 1 second in 70: too few for one order of all, and none for a second one."""
    model = Timed(Clock(), np.ones(100), averaged=True, shorter=(0.75, 0.5, 0.25))
    made, results, budget = read(model, seconds=70)
    whole = rows_of(*model.blocks("a"))
    halves = {share: len(rows_of(*model.blocks("a", share))) for share in (0.75, 0.5, 0.25)}
    assert len(whole) + sum(halves.values()) == 100
    both = rows_of(*model.blocks("b"))
    np.testing.assert_allclose(made[both], [MEAN] * len(both))
    assert np.delete(made, both, axis=0).tolist() == [FIRST] * (100 - len(both))
    # The second block is not yet shortened: the first one holds what happens once.
    assert [len(rows) for rows in model.blocks("a")][:2] == [4, 7]
    assert [share for share, *_ in model.journal][:3] == [1, 1, 0.5]
    assert budget.given_up == {
        **{f"x{share}": rows for share, rows in halves.items() if rows},
        ONE_ORDER: len(whole) - len(both),
    }
    assert 60 < model.clock.now <= 70
    assert "time budget: 59 s left, enough for 60 % of the remaining 89 rows: x0.5" in caplog.text
    assert [result.final for result in results[:3]] == [False, False, True]


def test_a_row_that_was_shortened_gets_no_second_order():
    model = Timed(Clock(), np.ones(40), averaged=True, shorter=(0.1,))
    _, _, budget = read(model, seconds=38)
    shortened = rows_of(*model.blocks("a", 0.1))
    assert shortened
    assert not set(shortened) & set(rows_of(*model.blocks("b")))
    assert rows_of(*model.blocks("b")) == rows_of(*model.blocks("a"))
    assert +budget.given_up == {"x0.1": len(shortened)}


def test_a_slow_start_is_not_the_speed():
    model = Timed(Clock(), np.full(100, 0.3), shorter=(0.5,), overhead=20)
    made, _, budget = read(model, seconds=100)
    assert made.tolist() == [FIRST] * 100
    assert budget.given_up == {}


def test_after_a_start_so_slow_that_no_row_would_fit_rows_are_shortened_at_once():
    model = Timed(Clock(), np.full(100, 0.3), shorter=(0.5, 0.01), overhead=95)
    read(model, seconds=100)
    assert [share for share, *_ in model.journal][:2] == [1, 0.01]


def test_rows_are_read_in_full_again_where_that_fits_after_all(caplog):
    clock, costs = Clock(), np.ones(60)
    model = Timed(clock, costs, shorter=(0.5,))
    plain, model.calls = model.costs, 0

    def slow_at_first(pairs):
        if len(pairs) < 60:  # not the projection
            model.calls += 1
            return plain(pairs) * (3 if model.calls <= 2 else 0.5)
        return plain(pairs)

    model.costs = slow_at_first
    _, _, budget = read(model, seconds=100)
    assert " rows: back to the configured settings" in caplog.text
    shares = [share for share, *_ in model.journal]
    assert shares[:3] == [1, 1, 0.5]
    assert shares[-1] == 1
    assert set(budget.given_up) == {"x0.5"}


def test_what_no_variant_has_time_for_is_left(caplog):
    model = Timed(Clock(), np.ones(100), averaged=True, shorter=(0.5,))
    made, _results, budget = read(model, seconds=30)
    left = int(np.isnan(made[:, 0]).sum())
    assert 40 < left < 60
    assert np.isnan(made[-left:]).all()
    assert budget.given_up[UNREAD] == left
    assert model.blocks("b") == []
    assert 25 < model.clock.now <= 30
    assert f"time budget: used up, {left} of 100 rows are not predicted" in caplog.text


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_time_at_all(seconds):
    model = Timed(Clock(), COSTS, averaged=True)
    made, results, budget = read(model, seconds=seconds)
    assert (model.journal, results, budget.given_up) == ([], [], {UNREAD: 8})
    assert np.isnan(made).all()


def test_before_the_first_block_nothing_is_known():
    model = Timed(Clock(), COSTS)
    _, _, budget = read(model, seconds=1e-3)
    assert model.blocks("a") == [ORDER[:4]]
    assert budget.given_up == {UNREAD: 4}


def test_work_goes_on_where_an_earlier_process_stopped():
    first = np.full((8, 3), np.nan)
    first[[0, 2, 5]] = FIRST
    for seconds in (math.inf, 1_000):
        model = Timed(Clock(), COSTS, averaged=True)
        made, _results, budget = read(model, seconds, first=first.copy())
        assert rows_of(*model.blocks("a")) == [7, 4, 6, 1, 3]
        assert rows_of(*model.blocks("b")) == ORDER
        np.testing.assert_allclose(made, [MEAN] * 8)
        # The three rows count elsewhere: what the earlier process gave up is taken back.
        assert budget.given_up == {ONE_ORDER: -3}
    model = Timed(Clock(), COSTS, averaged=True)
    read(model, seconds=12, first=np.tile(FIRST, (8, 1)))
    assert model.blocks("b") == [ORDER[:4]]  # the first block, whatever it takes


@pytest.mark.parametrize(
    "error", [ValueError("a bad row"), MemoryError("too long"), SystemExit("bye")]
)
def test_the_first_failure_is_raised(error):
    model = Timed(Clock(), COSTS)
    model.fails = {4: error}
    with pytest.raises(type(error), match=str(error)):
        read(model)
    assert len(model.journal) == 1


@pytest.mark.parametrize(
    "error", [ValueError("a bad row"), MemoryError("too long"), SystemExit("bye")]
)
def test_a_row_that_fails_costs_itself_alone(error, caplog):
    """The block is halved down to it, and the others are read."""
    model = Timed(Clock(), COSTS)
    model.fails = {4: error}
    made, results, budget = read(model, isolate=True)
    # 4 is the third row by cost: of 8, of 4, of 2, alone.
    halves = [ORDER, ORDER[:4], ORDER[:2], ORDER[2:4], [4], [2], ORDER[4:]]
    assert model.blocks("a") == halves
    failure = next(result for result in results if result.rows.tolist() == [4])
    assert (failure.probabilities, failure.final) == (describe(error), True)
    assert np.isnan(made[4]).all()
    assert np.delete(made, 4, axis=0).tolist() == [FIRST] * 7
    assert budget.given_up == {}
    assert "1 row failed, the first with id '4'" in caplog.text
    assert "Traceback" in caplog.text


def test_a_row_whose_second_order_fails_keeps_its_first(caplog):
    model = Timed(Clock(), COSTS, averaged=True)
    plain = model.predict_proba

    def predict_proba(pairs):
        if "6" in set(pairs["id"]) and pairs["response_a"][0] == ("b",):
            raise ValueError("no luck")
        return plain(pairs)

    model.predict_proba = predict_proba
    made, results, budget = read(model, isolate=True)
    assert made[6].tolist() == FIRST
    np.testing.assert_allclose(np.delete(made, 6, axis=0), [MEAN] * 7)
    assert [r.probabilities for r in results if r.rows.tolist() == [6]] == ["ValueError: no luck"]
    assert +budget.given_up == {}  # it is a failure, and no lack of time


def test_a_row_without_probabilities_is_found_without_a_search(caplog):
    """More of them than failed calls are allowed: it is known which they are."""
    model = Timed(Clock(), np.ones(400))
    model.bad = range(0, 400, 2)
    made, results, _ = read(model, isolate=True)
    assert len(model.journal) == 1
    assert made[1::2].tolist() == [FIRST] * 200
    reasons = [(r.rows.tolist(), r.probabilities) for r in results[1:]]
    reason = "expected probabilities that sum to 1, got [nan, nan, nan]"
    assert reasons == [([row], reason) for row in range(0, 400, 2)]
    assert f"id '398': {reason}" in caplog.text
    with pytest.raises(ValueError, match="sum to 1, got"):
        read(model)


@pytest.mark.parametrize(
    "row", [[np.nan, 0.5, 0.5], [np.inf, 0, 0], [0.5, 0.6, -0.1], [0.5, 0.5, 0.5], [0.5, 0.4, 0.0]]
)
def test_what_is_no_probability_is_not_used(row, monkeypatch):
    monkeypatch.setattr(Timed, "predict_proba", lambda self, pairs: np.tile(row, (len(pairs), 1)))
    with pytest.raises(ValueError, match="expected probabilities that sum to 1, got"):
        read(Timed(Clock(), COSTS))


def test_probabilities_of_another_shape(monkeypatch):
    monkeypatch.setattr(Timed, "predict_proba", lambda self, pairs: np.ones((len(pairs), 2)) / 2)
    with pytest.raises(ValueError, match=r"of shape \(8, 3\), got \(8, 2\)"):
        read(Timed(Clock(), COSTS))


def test_a_model_that_always_fails_is_given_up(monkeypatch):
    monkeypatch.setattr(schedule, "MAX_FAILURES", 5)
    model = Timed(Clock(), COSTS)
    model.fails = dict.fromkeys(range(8), ValueError("no luck"))
    message = "abandoned after 5 failed calls in a row, the last of them: ValueError: no luck"
    with pytest.raises(RuntimeError, match=message):
        read(model, isolate=True)
    assert len(model.journal) == 5


def test_failures_here_and_there_do_not_add_up_to_a_model_that_fails(monkeypatch):
    monkeypatch.setattr(schedule, "MAX_FAILURES", 5)
    model = Timed(Clock(), np.ones(64))
    model.fails = dict.fromkeys(range(7, 64, 8), ValueError("no luck"))
    made, _results, _ = read(model, isolate=True)
    assert np.flatnonzero(np.isnan(made[:, 0])).tolist() == list(range(7, 64, 8))


def test_an_error_that_breaks_the_gpu_is_raised_at_once():
    model = Timed(Clock(), COSTS)
    model.fails = {4: RuntimeError("CUDA error: device-side assert triggered")}
    with pytest.raises(RuntimeError, match="CUDA error"):
        read(model, isolate=True)
    assert len(model.journal) == 1


def test_blocks_are_bounded_where_failures_are_isolated(monkeypatch):
    monkeypatch.setattr(schedule, "BLOCK_ROWS", 3)
    model = Timed(Clock(), COSTS, averaged=True)
    read(model, isolate=True)
    assert model.blocks("a") == model.blocks("b") == [ORDER[:3], ORDER[3:6], ORDER[6:]]
    model = Timed(Clock(), COSTS)
    read(model)
    assert model.blocks("a") == [ORDER]


def test_rows_whose_cost_is_unknown_cost_the_same(caplog, monkeypatch):
    def costs(self, pairs):
        raise ValueError("no tokens")

    model = Timed(Clock(), COSTS)
    model.costs = costs.__get__(model)
    model.predict_proba = lambda pairs: np.tile(FIRST, (len(pairs), 1))
    with pytest.raises(ValueError, match="no tokens"):
        read(model)
    _made, results, _ = read(model, isolate=True)
    assert [result.rows.tolist() for result in results] == [list(range(8))]
    assert "all rows count equally" in caplog.text


def test_the_rows_that_are_tried_next_are_announced():
    model = Timed(Clock(), COSTS, averaged=True)
    begun = []
    own = Schedule(model, frame(8), Budget(math.inf, model.clock))
    for result in own.results(lambda rows: begun.append(rows.tolist())):
        assert begun[-1] == result.rows.tolist()
    assert begun == [ORDER, ORDER]


def test_memory_is_given_back():
    class Node:
        pass

    one = Node()
    one.itself, alive = one, weakref.ref(one)
    gc.collect()
    gc.disable()
    try:
        del one
        assert alive() is not None
        free()
        assert alive() is None
    finally:
        gc.enable()


def test_the_examples_hold(monkeypatch):
    monkeypatch.undo()
    found = doctest.testmod(schedule)
    assert found.attempted >= 2
    assert found.failed == 0
