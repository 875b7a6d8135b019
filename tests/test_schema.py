from humanpref.schema import CLASSES, LABEL_COLUMNS, SWAPPED_CLASSES


def test_classes_and_label_columns_have_one_order():
    assert [column.rpartition("_")[2] for column in LABEL_COLUMNS] == [c.lower() for c in CLASSES]


def test_exchanging_a_and_b_twice_gives_the_classes_back():
    swapped = [CLASSES[i] for i in SWAPPED_CLASSES]
    assert swapped == ["B", "A", "tie"]
    assert [swapped[i] for i in SWAPPED_CLASSES] == list(CLASSES)
