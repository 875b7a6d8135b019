from humanpref.data import read_pairs
from humanpref.evaluation.slices import slices


def test_slices(write_csv):
    rows = [
        (["What is the name of this?"], ["x" * 400], ["x" * 400], 2),
        (["a", "b"], ["```python\n1"], [""], 0),
        (["Где и что", "b", "c"], ["x" * 4000], ["x" * 3500], 1),
        (["Где и что", "b", "c", "d"], [" "], [""], 1),
        (["What is the house of this?"], ["x" * 1000], ["x" * 1999], 1),
    ]
    found = {name: parts.tolist() for name, parts in slices(read_pairs(write_csv(rows))).items()}
    assert found == {
        "mean characters of the answers": [
            "under 500",
            "under 500",
            "3,000 and more",
            "under 500",
            "500-1,500",
        ],
        "longer answer is longer by": [
            "under 1.25 times",
            "4 times and more",
            "under 1.25 times",
            "2-4 times",
            "1.25-2 times",
        ],
        "turns": ["1", "2", "3 and more", "3 and more", "1"],
        "language of the prompt": ["english", "unknown", "another", "another", "english"],
        "code": ["none", "a code block", "none", "none", "none"],
        "answers": [
            "identical",
            "one is empty",
            "different, not empty",
            "both are empty",
            "different, not empty",
        ],
    }
