import numpy as np
import pytest

from humanpref.training.batching import shuffled_windows, token_batches


@pytest.mark.parametrize(
    ("rows", "batch_size", "accumulation"), [(11, 4, 2), (1, 16, 1), (16, 8, 2), (7, 1, 3)]
)
def test_every_row_once_and_nothing_dropped(rows, batch_size, accumulation):
    windows = shuffled_windows(rows, batch_size, accumulation, seed=0, epoch=0)
    batches = [batch for window in windows for batch in window]
    assert sorted(np.concatenate(batches)) == list(range(rows))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(len(window) == accumulation for window in windows[:-1])


def test_the_order_is_drawn_by_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(
            [b for w in shuffled_windows(50, 8, 1, seed, epoch) for b in w]
        ).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(1, 0)), tuple(order(1, 1)), tuple(order(2, 0))}) == 3


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
