import pytest

from humanpref.schema import CLASSES, LABEL_COLUMNS, SWAPPED_CLASSES, InputError, refuse_failures


def test_classes_and_label_columns_have_one_order():
    assert [column.rpartition("_")[2] for column in LABEL_COLUMNS] == [c.lower() for c in CLASSES]


def test_exchanging_a_and_b_twice_gives_the_classes_back():
    swapped = [CLASSES[i] for i in SWAPPED_CLASSES]
    assert swapped == ["B", "A", "tie"]
    assert [swapped[i] for i in SWAPPED_CLASSES] == list(CLASSES)


class PanicException(BaseException):
    """As pyo3 raises for a panic in Rust."""


class OutOfMemoryError(RuntimeError):
    """As torch raises on a GPU."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("vocab"), "x.json: not read (KeyError: 'vocab')"),
        (AssertionError(), "x.json: not read (AssertionError)"),
        (RecursionError("deep:\nand more"), "x.json: not read (RecursionError: deep)"),
        (PanicException("at lib.rs"), "x.json: not read (PanicException: at lib.rs)"),
        (ValueError("x" * 300), f"x.json: not read (ValueError: {'x' * 200})"),
        (InputError("y.json: odd"), "y.json: odd"),
    ],
)
def test_any_failure_is_told_in_one_line(error, message):
    with pytest.raises(InputError) as caught, refuse_failures("x.json: not read"):
        raise error
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught, refuse_failures(lambda own: f"saw {own is error}"):
        raise error
    assert str(caught.value) in ("saw True", "y.json: odd")


@pytest.mark.parametrize("kind", [MemoryError, OutOfMemoryError, KeyboardInterrupt, SystemExit])
def test_what_is_no_fault_of_a_file_goes_on(kind):
    with pytest.raises(kind), refuse_failures("x.json"):
        raise kind
