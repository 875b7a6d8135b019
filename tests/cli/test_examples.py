"""Each command's help ends in examples, and the command line accepts every one of them."""

import shlex

import pytest

from humanpref.cli.examples import EXAMPLES
from humanpref.cli.main import parser


def commands_below(run, words=()):
    """Yield every command and group: those that a group lists when it does not know a name."""
    yield words
    error = run(*words, "?")[2].splitlines()[-1]
    names = error.partition("argument COMMAND: unknown '?'; expected one of ")[2]
    for name in filter(None, names.split(", ")):
        yield from commands_below(run, (*words, name))


def lines_of(text):
    return [
        " ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()
    ]


def test_every_help_ends_in_examples(run):
    commands = list(commands_below(run))
    assert {("train",), ("kaggle", "dry-run"), ("ablate", "softmax")} < {*commands}
    assert {" ".join(["humanpref", *words]) for words in commands} == {*EXAMPLES}
    for words in commands:
        name = " ".join(["humanpref", *words])
        code, out, _ = run(*words, "--help")
        text = out.partition("\nexamples:\n")[2]
        assert code == 0
        assert lines_of(text) == lines_of(EXAMPLES[name]), name
        assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_accepted(name):
    for line in lines_of(EXAMPLES[name]):
        assert line.startswith(f"{name} ") or line == name
        program, *arguments = shlex.split(line)
        options = parser().parse_args(arguments)
        assert (program, callable(options.run)) == ("humanpref", True)
