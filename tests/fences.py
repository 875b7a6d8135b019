"""What the fences of a Markdown page hold."""

import re
import shlex
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fences(page: Path, *kinds: str) -> list[tuple[str, str]]:
    """The kind and the content of each fence of these kinds."""
    return [fence for fence in FENCE.findall(page.read_text("utf-8")) if fence[0] in kinds]


def command_lines(content: str) -> list[list[str]]:
    """The commands of a fence as words, without comments."""
    lines = content.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
