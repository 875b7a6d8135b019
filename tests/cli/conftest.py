import pytest

from humanpref.cli.main import main


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run a command in an empty folder; returns its exit code, standard output and standard
    error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def artifact(arena, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "artifact"
    assert (
        main(
            [
                "--quiet",
                "train",
                "--preset",
                "prior",
                "--train",
                str(arena / "train.csv"),
                "--out",
                str(out),
                "--folds",
                "2",
            ]
        )
        == 0
    )
    return out
