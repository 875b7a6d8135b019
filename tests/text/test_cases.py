import numpy as np
import pandas as pd
import pytest

from humanpref.evaluation.slices import slices
from humanpref.reports.tables import special_answers
from humanpref.text.cases import A_EMPTY, B_EMPTY, BOTH_EMPTY, IDENTICAL, answer_cases


@pytest.mark.parametrize(
    ("a", "b", "case", "part"),
    [
        (("a",), ("b",), "", "different, not empty"),
        (("a ",), ("a",), IDENTICAL, "identical"),
        (("a", "b"), ("a\nb",), "", "different, not empty"),
        ((" ",), ("",), BOTH_EMPTY, "both are empty"),
        (("", ""), ("",), BOTH_EMPTY, "both are empty"),
        ((), ("x",), A_EMPTY, "one is empty"),
        (("x",), ("\n",), B_EMPTY, "one is empty"),
    ],
)
def test_one_notion_of_empty_and_identical(a, b, case, part):
    pairs = pd.DataFrame({"id": ["1"], "prompt": [("p",)], "response_a": [a], "response_b": [b]})
    assert answer_cases(pairs).tolist() == [case]
    assert slices(pairs)["answers"].tolist() == [part]
    counted = special_answers(pairs).set_index("case")["rows"]
    names = {
        A_EMPTY: "only A is empty",
        B_EMPTY: "only B is empty",
        BOTH_EMPTY: "both are empty",
        IDENTICAL: "identical, not empty",
    }
    assert counted.sum() == np.sum(case != "")
    assert not case or counted[names[case]] == 1
