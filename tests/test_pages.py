"""The pages that people read: their commands are those of the program, their links lead somewhere,
and the journeys work when they are typed as they stand. (That of docs/kaggle.md is followed in
`tests/kaggle/service/test_push.py`.)

A fence `sh` holds commands, a fence `python` code, and a fence `text` after one of them some of the
lines that it prints: all of a page in one empty folder. Commands in a fence `bash` are checked but
not run, since they need weights, hours or a GPU.
"""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

from humanpref.cli.main import main, parser
from humanpref.config import load_config, preset_names
from humanpref.config.describe import options_of

from .fences import FENCE, command_lines, fences

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def prose(page: Path) -> list[str]:
    """The pieces of code within sentences and tables."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text("utf-8")))


@pages
def test_commands_are_those_of_the_program(page):
    for words in (
        words for _, content in fences(page, "sh", "bash") for words in command_lines(content)
    ):
        # A command may follow variables of its environment.
        while "=" in words[0]:
            del words[0]
        match words:
            case ["humanpref", *arguments]:
                parser().parse_args(arguments)
            case ["python", script, *_] if not script.startswith("-"):
                assert (ROOT / script).is_file(), script
            case ["make", *targets]:
                known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
                assert {each for each in targets if "=" not in each} <= set(known)


@pages
def test_commands_within_sentences_exist(page, capsys):
    for code in prose(page):
        named = re.match(r"humanpref ((?:kaggle )?[a-z][\w-]*)", code)
        if named is None:
            continue
        with pytest.raises(SystemExit) as ended:
            main([*named[1].split(), "--help"])
        assert ended.value.code == 0, code
        known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
        assert set(re.findall(r" (--[a-z][\w-]*)", code)) <= known, code


def test_options_and_presets_exist():
    presets = {name: options_of(load_config(name)) for name in preset_names()}
    keys = {option.key for options in presets.values() for option in options}
    for page in PAGES:
        code = "\n".join([*prose(page), *(content for _, content in fences(page, "sh", "bash"))])
        named = re.findall(r"\b(?:model|training|inference)\.\w+\b(?=[= ]|$)", code)
        unknown = set(named) - keys
        # Attributes of a model in Python, and names of files, look the same.
        assert {each for each in unknown if f"{each}=" in code} == set(), page.name
        chosen = re.findall(r"--preset ([\w.-]+)", code)
        assert set(chosen) - {"NAME", "P"} <= set(presets), page.name
    table = README.read_text("utf-8").partition("## Models")[2]
    assert [name for name in presets if f"`{name}`" not in table] == []


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def run(arguments: list[str]) -> str:
    """Run a command, which must succeed, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(arguments) == 0, shlex.join(arguments)
    return printed.getvalue()


def walk(page: Path, last: int | None = None) -> list[list[str]]:
    """Follow a page, or its first fences; return the commands that were run."""
    printed, done = "", []
    names = {"__name__": "__main__"}
    for kind, content in fences(page, "sh", "python", "text")[:last]:
        if kind == "text":
            shown = [line for line in content.splitlines() if line.strip() not in ("", "…")]
            assert [line for line in shown if line not in printed.splitlines()] == []
            continue
        printed = ""
        if kind == "python":
            exec(compile(content, page.name, "exec"), names)
            continue
        for words in command_lines(content):
            # Everything else makes the environment that runs this test.
            if words[0] == "humanpref":
                printed += run(words[1:])
                done.append(words[1:])
    return done


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readme_begins_with_a_verdict(empty):
    assert [words[0] for words in walk(README, last=2)] == ["judge"]
    assert len(fences(README, "text")[0][1].splitlines()) > 4


def test_output_that_is_not_printed_is_noticed(empty):
    (empty / "page.md").write_text("```sh\nhumanpref presets\n```\n```text\nno such line\n```\n")
    with pytest.raises(AssertionError):
        walk(empty / "page.md")


@pytest.fixture
def models(empty, sentence_encoder, decoder_folder):
    """Small random models in the folders that the pages name."""
    shutil.copytree(sentence_encoder, empty / "models" / "all-MiniLM-L6-v2")
    shutil.copytree(decoder_folder(), empty / "models" / "Llama-3.2-1B")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/pairs.md", "docs/judge.md"])
def test_a_journey(name, models):
    assert len(walk(ROOT / name)) > 4
