"""The pages that people read: their commands are those of the program, their links lead somewhere,
and the three journeys work when they are typed as they stand.

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

from humanpref.arena import write_arena
from humanpref.cli.main import main, parser
from humanpref.config import load_config, preset_names
from humanpref.config.describe import options_of
from humanpref.kaggle.competitions import DEFAULT

from .kaggle.commands import Commands
from .kaggle.loopback import USER, Service
from .kaggle.service.bundles import left_whole
from .shrunken import save_encoder

ROOT = Path(__file__).parents[1]
README, KAGGLE = ROOT / "README.md", ROOT / "docs" / "kaggle.md"
PAGES = sorted([README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def fences(page: Path, *kinds: str) -> list[tuple[str, str]]:
    """The kind and the content of each fence of these kinds."""
    return [fence for fence in FENCE.findall(page.read_text("utf-8")) if fence[0] in kinds]


def commands(content: str) -> list[list[str]]:
    """The commands of a fence as words, without comments."""
    lines = content.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def prose(page: Path) -> list[str]:
    """The pieces of code within sentences and tables."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text("utf-8")))


@pages
def test_commands_are_those_of_the_program(page):
    for words in (
        words for _, content in fences(page, "sh", "bash") for words in commands(content)
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


def walk(page: Path, run=run, last: int | None = None) -> list[list[str]]:
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
        for words in commands(content):
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
def models(empty, pairs, sentence_encoder, decoder_folder):
    """Small random models in the folders that the pages name."""
    texts = [turn for turns in pairs["prompt"] for turn in turns]
    save_encoder("microsoft/deberta-v3-small", texts, empty / "models" / "deberta-v3-small")
    shutil.copytree(sentence_encoder, empty / "models" / "all-MiniLM-L6-v2")
    shutil.copytree(decoder_folder(), empty / "models" / "Llama-3.2-1B")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/pairs.md", "docs/judge.md"])
def test_a_journey(name, models):
    assert len(walk(ROOT / name)) > 4


@pytest.mark.slow
def test_the_journey_to_a_score(empty, tmp_path_factory):
    rows = tmp_path_factory.mktemp("competition")
    write_arena(rows, rows=120, seed=1)
    names = ("train.csv", "test.csv", "sample_submission.csv")
    forks = Commands(tmp_path_factory.mktemp("home"))
    printed = []
    with contextlib.closing(forks), Service(competitions=(DEFAULT,)) as service:
        service.data = {name: (rows / name).read_bytes() for name in names}
        service.outputs = {
            "submission.csv": b"id\n1\n",
            "logs/infer.log": b"fine\n",
            "status.json": left_whole,
        }

        def order(arguments):
            typed = [USER if word == "YOUR_NAME" else word for word in arguments]
            finished = forks.run(service, empty, *typed)
            assert finished.code == 0, (typed, finished.err[-2_000:])
            printed.append(finished.out)
            return finished.out

        done = walk(KAGGLE, order)
        assert [words[1] for words in done if words[1] in ("push", "submit")] == ["push", "submit"]
        assert len(service.submissions) == 1
        assert "1.01234" in "".join(printed)
