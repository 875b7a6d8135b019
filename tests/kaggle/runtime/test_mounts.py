"""Files are found by name under the mounts."""

from humanpref.kaggle.runtime.mounts import find, tree


def test_files_are_found_nearest_first_and_once(tmp_path):
    for folder in ("z", "a/b", "a/b/c"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x").touch()
    (tmp_path / "z" / "y").touch()
    (tmp_path / "again").symlink_to(tmp_path / "a")  # the same mount under a second path
    found = [path.relative_to(tmp_path).parts for path in find("x", tmp_path)]
    assert [len(parts) for parts in found] == [2, 3, 4]
    assert [path.parent.name for path in find("x", tmp_path, depth=1)] == ["z"]
    assert find("absent", tmp_path) == []


def test_the_tree_of_a_folder_is_cut(tmp_path):
    assert tree(tmp_path) == f"{tmp_path} holds:\n  nothing"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    assert tree(tmp_path) == f"{tmp_path} holds:\n  a\n  a/x"
    assert tree(tmp_path, limit=1).splitlines()[-1] == "  …"
