"""`humanpref judge`: judge one pair of answers, and show why."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humanpref.cli.shared import add_command, add_option, add_path
from humanpref.schema import InputError

if TYPE_CHECKING:
    from humanpref.interfaces.judge import Judgement

SHOWN_MARGIN, SHOWN_TIE = 8, 4
"""Maximum number of features that are listed for each score."""
_SAME = "; see --prompt"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    text = "judge two answers to a prompt, and show which features favor A or B"
    command = add_command(commands, "judge", run, text)
    text = (
        "a text, taken as it is; @FILE reads it from a file and - from standard input, both "
        "without the last line break; for a text that starts with @, write @@; if all three texts "
        "are JSON lists of strings, they are the turns of a conversation"
    )
    add_option(command, "--prompt", "TEXT", text, required=True)
    add_option(command, "--a", "TEXT", f"answer A{_SAME}", required=True)
    add_option(command, "--b", "TEXT", f"answer B{_SAME}", required=True)
    text = "judge by this artifact (default: the small judge that comes with the package)"
    add_path(command, "--model", "ARTIFACT", text)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    names = "prompt", "a", "b"
    given = [getattr(options, name) for name in names]
    if given.count("-") > 1:
        raise InputError("standard input (-) can be used for only one of --prompt, --a and --b")
    texts = [text_of(value, f"--{name}") for name, value in zip(names, given, strict=True)]

    from humanpref.interfaces.judge import load
    from humanpref.interfaces.linear import CARD_FILE, PACKAGED

    judge = load(options.model)
    judgement = judge.judge(*texts)
    about = getattr(judge.model, "about", f"Judged by {options.model}.")
    if options.json:
        content = {**judgement.to_dict(), "model": str(options.model or "packaged"), "about": about}
        print(json.dumps(content))
        return 0
    print("\n".join(lines_of(judgement)))
    print(f"\n{about}")
    if options.model is None:
        print(f"More about it: {PACKAGED / CARD_FILE}")
    return 0


def text_of(value: str, option: str) -> str:
    """Return the text that an argument specifies: the argument itself, or the content of a file or
    of standard input.

    Raises
    ------
    InputError
        If the file or the input cannot be read, or is not UTF-8.
    """
    if value.startswith("@@"):
        return value[1:]
    if value != "-" and not value.startswith("@"):
        return value
    source = "standard input" if value == "-" else value[1:]
    try:
        content = sys.stdin.buffer.read() if value == "-" else Path(source).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        hint = "" if value == "-" else "; a text that starts with @ is written with @@"
        raise InputError(f"{option}: {source!r}: cannot be read ({error.strerror}{hint})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{option}: {source}: expected UTF-8 text, but byte {error.start} is not UTF-8"
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def lines_of(judgement: "Judgement") -> list[str]:
    """Return a judgement as lines for a terminal."""
    lines = [
        f"P(A) {judgement.p_a:.3f}   P(B) {judgement.p_b:.3f}   P(tie) {judgement.p_tie:.3f}",
        f"ln P(A)/P(B) = {judgement.margin:+.3f} nats",
    ]
    if shares := judgement.margin_shares:
        lines += _shares(shares, SHOWN_MARGIN, "for A", "for B")
    if judgement.p_tie:
        lines.append(f"tie against the mean of A and B: {judgement.tie_score:+.3f} nats")
    if shares := judgement.tie_shares:
        lines += _shares(shares, SHOWN_TIE, "for a tie", "against")
    cut = "a text was too long, and only a part of it was read" if judgement.cut else "nothing"
    return [*lines, f"cut: {cut}"]


def _shares(shares: dict[str, float], shown: int, above: str, below: str) -> list[str]:
    """List what the features add to a score, in nats: the `shown` largest shares, and the sum of
    the others."""
    rows = [(_plain(name), share) for name, share in shares.items() if share]
    rows.sort(key=lambda row: -abs(row[1]))
    if len(others := rows[shown:]) > 1:
        together = sum(share for _, share in others)
        rows = [*rows[:shown], (f"{len(others)} others together", together)]
    return [f"  {above if share > 0 else below:<9}  {share:+.3f}  {name}" for name, share in rows]


def _plain(name: str) -> str:
    """Return a feature's name in words: `log_list_items_difference` as "list items"."""
    words = name.removesuffix("_difference").replace("log_", "").replace("_", " ")
    return words.removesuffix(" distance") + (", how unequal" if name.endswith("distance") else "")
