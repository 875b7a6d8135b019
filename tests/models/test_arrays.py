"""Arrays are read exactly as they were written, or refused."""

import numpy as np
import pytest

from humanpref.models.arrays import check_names, load_arrays, save_arrays
from humanpref.schema import InputError

SHAPES = {"w": (None, 2), "c": (1,)}


def test_written_and_read(tmp_path):
    arrays = {"w": np.arange(6.0).reshape(2, 3).T, "c": np.array([1.0])}
    save_arrays(tmp_path / "a", arrays)
    found = load_arrays(tmp_path / "a", SHAPES)
    assert found.keys() == arrays.keys()
    np.testing.assert_array_equal(found["w"], arrays["w"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"w": np.ones((3, 2))}, "missing weights c"),
        ({"w": np.ones((3, 2)), "c": np.ones(1), "d": np.ones(1)}, "extra weights d"),
        ({"w": np.ones((3, 1)), "c": np.ones(1)}, r"weight w: expected shape \(None, 2\), got"),
        ({"w": np.ones(2), "c": np.ones(1)}, "weight w: expected shape"),
        (
            {"w": np.ones((3, 2)), "c": np.array([np.nan])},
            "weight c: expected finite values, got NaN or infinity",
        ),
        *(
            (
                {"w": np.ones((3, 2)), "c": np.ones(1, dtype)},
                f"weight c: expected float32 or float64, got {dtype}",
            )
            for dtype in ("int64", "bool", "float16", "uint8")
        ),
    ],
)
def test_anything_else_is_refused(arrays, message, tmp_path):
    save_arrays(tmp_path / "a", arrays)
    with pytest.raises(InputError, match=message):
        load_arrays(tmp_path / "a", SHAPES)


def test_a_file_that_is_not_safetensors_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"no")
    for name in ("a", "b"):
        with pytest.raises(InputError, match="cannot be read as safetensors"):
            load_arrays(tmp_path / name, SHAPES)


def test_a_dtype_that_numpy_lacks_is_refused(tmp_path):
    header = b'{"c":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(InputError, match=r"cannot be read as safetensors|float32 or"):
        load_arrays(tmp_path / "a", {"c": (1,)})


def test_five_names_are_enough_of_a_message(tmp_path):
    check_names(tmp_path, {"a"}, {"a"})
    with pytest.raises(InputError, match=r"missing weights a, b, c, d, e …; extra weights x$"):
        check_names(tmp_path, set("abcdefg"), {"x"})
