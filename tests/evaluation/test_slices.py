from humanpref.data import read_pairs
from humanpref.evaluation.slices import slices


def test_slices(write_csv):
    rows = [
        (["What is the name of this?"], ["x" * 400], ["x" * 400], 2),
        (["a", "b"], ["```python\n1"], [""], 0),
        (["Где и что", "b", "c"], ["x" * 4000], ["x" * 3500], 1),
    ]
    found = {name: parts.tolist() for name, parts in slices(read_pairs(write_csv(rows))).items()}
    assert found == {
        "mean characters of the answers": ["under 500", "under 500", "3,000 and more"],
        "longer answer is longer by": ["under 1.25 times", "4 times and more", "under 1.25 times"],
        "turns": ["1", "2", "3 and more"],
        "language of the prompt": ["english", "unknown", "another"],
        "code": ["none", "a code block", "none"],
        "answers": ["identical", "one is empty", "different, not empty"],
    }
