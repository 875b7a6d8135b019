import numpy as np
import pytest

from humanpref.training.batching import micro_batches, padded, shuffled_windows, token_batches


@pytest.mark.parametrize(("rows", "size"), [(11, 8), (1, 16), (16, 16), (7, 3)])
def test_every_row_once_and_nothing_dropped(rows, size):
    windows = shuffled_windows(rows, size, seed=0, epoch=0)
    assert sorted(np.concatenate(windows)) == list(range(rows))
    assert all(len(window) == size for window in windows[:-1])


def test_the_order_is_drawn_by_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(shuffled_windows(50, 8, seed, epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(1, 0)), tuple(order(1, 1)), tuple(order(2, 0))}) == 3


LENGTHS = np.random.default_rng(0).integers(1, 400, size=200)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_a_window_evenly_and_take_the_largest_pass_first(processes):
    window = np.random.default_rng(1).permutation(200)[:64]
    shares = micro_batches(window, LENGTHS, 4, 1_000, processes)
    assert sorted(np.concatenate([rows for share in shares for rows in share])) == sorted(window)
    for share in shares:
        sizes = [padded(LENGTHS, rows) for rows in share]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) <= 1_000
        assert max(len(rows) for rows in share) <= 4
    tokens = [sum(LENGTHS[rows].sum() for rows in share) for share in shares]
    assert max(tokens) - min(tokens) < 0.02 * min(tokens)


def test_a_process_without_a_row_has_no_pass():
    shares = micro_batches(np.array([7]), LENGTHS, 4, 1, processes=2)
    assert [[rows.tolist() for rows in share] for share in shares] == [[[7]], []]


def test_token_batches_keep_to_the_budget():
    lengths = np.random.default_rng(0).integers(1, 400, size=200)
    lengths[17] = 5_000
    batches = token_batches(lengths, 1_000)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert batches[0].tolist() == [17]  # too long for any budget: alone, and first
    for batch in batches[1:]:
        assert lengths[batch].max() * len(batch) <= 1_000
    assert lengths[batches[1][0]] == np.delete(lengths, 17).max()
    assert token_batches(np.array([], dtype=int), 10) == []
