"""Damage CSVs and artifacts at random, and count what is refused, read the same, and read
differently.

    python benchmarks/damaged_inputs.py [--rows 10000] [--artifacts 1000] [--seed 0] [--minutes 10]

Each damage is one byte, one cell or one key; a file keeps its times. A row counts as read
differently if `read_pairs` returns anything other than what the file says according to a second
reader, written here. An artifact counts as read differently if its predictions, metrics or tables
change. An artifact whose digests were made after the damage may say anything; it must only be
refused in one line or be usable. The controls are artifacts as they are, and with other white space
and another order of keys. Nothing may end in a traceback, a crash, more than a
minute's work, or a file left behind. The exit status is 1 if anything does, or is read differently.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from humanpref.arena import generate
from humanpref.cli.main import main as command
from humanpref.config import load_config
from humanpref.data import read_pairs
from humanpref.data.pairs import LABEL_SUM_TOLERANCE
from humanpref.files import read_json
from humanpref.runs.artifact import Artifact
from humanpref.runs.artifact_files import seal
from humanpref.runs.train import train
from humanpref.schema import ID, LABEL_COLUMNS, TEXT_COLUMNS, InputError

REFUSED, SAME, DIFFERENT = "refused", "the same", "differently"
CONTROL = "undamaged artifacts, as they are and rewritten"
SEALED = "artifacts, digests made after the damage"
CASE_SECONDS = 60
QUICK = {
    "prior": ("prior",),
    "sparse": ("sparse", "model.term_penalties=10", "model.structure_penalties=100"),
    "boosted": ("boosted", "model.seeds=2", "model.rounds=3"),
    "encoder": ("tiny", "training.epochs=1", "model.max_length=64"),
    "embedding": ("embedding", "model.embedding_penalties=10"),
    "decoder": ("llama-3.2-1b-lora", "training.epochs=1", "model.max_length=256"),
    "dpo": ("llama-3.2-1b-dpo", "training.epochs=1", "model.max_length=256"),
    "blend": ("cpu-best", "model.members=['sparse', 'prior']"),
}
"""Each family's preset, and settings that train it within seconds."""
VALUES = (
    *(None, True, -1, 0, 0.5, 2, 10**7, 2**31, 10**30, 1e39, 5e-324, math.nan, math.inf, -0.0),
    *("", "x", "..", "/etc", "../../..", "\0", "\ud800", "torch", "a" * 5_000),
    *([], {}, [[]], [None], {"a": {}}, ["x"] * 3),
)
CELLS = (
    *("", "null", "nan", "inf", "-1", "0", "1", "0.5", "1e39", "5e-324", "1e-9", "2", "[]", "[1]"),
    *('["a"]', '["a", null]', '["a"', '"a"', "{}", "[[]]", "\0", '"', "a\nb", "é", "x" * 200_000),
    *('["\\ud800"]', "[" * 5_000, "\ufeff", "9" * 5_000, " 1", "1_0", "٣", "True"),
)


def with_byte(content: bytes, rng: random.Random) -> bytes:
    """Change one bit or one byte, or cut the rest off."""
    if not content:
        return b"x"
    place, kind = rng.randrange(len(content)), rng.randrange(8)
    if kind == 7:
        return content[:place]
    byte = content[place] ^ (1 << rng.randrange(8)) if kind < 4 else rng.randrange(256)
    return content[:place] + bytes([byte]) + content[place + 1 :]


def with_cell(content: bytes, rng: random.Random) -> bytes:
    """Change one cell of a CSV, or remove it."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    row = rows[rng.randrange(len(rows))]
    place = rng.randrange(len(row))
    if rng.random() < 0.1:
        del row[place]
    else:
        row[place] = rng.choice(CELLS)
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode("utf-8", "surrogatepass")


def with_key(content: bytes, rng: random.Random) -> bytes:
    """Change, remove or rename one key of a JSON file, at any depth."""
    value = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def visit(part: Any) -> None:
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, child in list(items)[:200]:
            places.append((part, key))
            if isinstance(child, dict | list):
                visit(child)

    if not isinstance(value, dict | list) or not value:
        return json.dumps(rng.choice(VALUES)).encode()
    visit(value)
    part, key = rng.choice(places)
    kind = rng.randrange(10)
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, dict):
        part[f"{key}_"] = part.pop(key)
    else:
        part[key] = rng.choice(VALUES)
    return json.dumps(value).encode()


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return list(map(reordered, value)) if isinstance(value, list) else value


def as_written(path: Path) -> list[tuple] | None:
    """Read a CSV of pairs with another reader; None if it is not one."""
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, *rows = filter(None, lines)
        if len(set(header)) < len(header) or not rows:
            return None
        winners = [column for column in LABEL_COLUMNS if column in header]
        if winners and winners[:2] != list(LABEL_COLUMNS[:2]):
            return None
        found = []
        for number, row in enumerate(rows):
            cells = dict(zip(header, row, strict=True))
            turns = [turns_as_written(cells[column]) for column in TEXT_COLUMNS]
            labels = [float(cells[column]) for column in winners]
            total = sum(labels)
            if winners and not (
                all(0 <= label <= 1 for label in labels) and abs(total - 1) <= LABEL_SUM_TOLERANCE
            ):
                return None
            key = cells[ID] if ID in header else str(number)
            found.append((key, *turns, *(label / total for label in labels)))
        ids = [row[0] for row in found]
        valid = all(key and key.isprintable() for key in ids) and len(set(ids)) == len(ids)
        return found if valid else None
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error):
        return None


def turns_as_written(cell: str) -> tuple[str, ...]:
    turns = json.loads(cell) if cell else None
    if turns is None:
        return ()
    if not isinstance(turns, list) or not all(isinstance(turn, str | None) for turn in turns):
        raise ValueError
    return tuple(
        "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in turn or "") for turn in turns
    )


def rows_case(content: bytes, folder: Path, rng: random.Random) -> str:
    """Damage one row of a CSV and read it."""
    path = folder / "rows.csv"
    path.write_bytes(rng.choice((with_byte, with_cell))(content, rng))
    return judged_rows(path)


def judged_rows(path: Path) -> str:
    written = as_written(path)
    try:
        pairs = read_pairs(path)
    except InputError as error:
        return REFUSED if "\n" not in str(error) else "several lines"
    columns = [ID, *TEXT_COLUMNS, *(c for c in LABEL_COLUMNS if c in pairs)]
    read = list(zip(*(pairs[column].tolist() for column in columns), strict=True))
    close = written is not None and len(read) == len(written)
    close = close and all(
        one[:4] == other[:4] and all(map(math.isclose, one[4:], other[4:]))
        for one, other in zip(read, written, strict=True)
    )
    return SAME if close else DIFFERENT


def used(artifact: Path, test: Path, folder: Path) -> tuple[str, Any]:
    """Predict by the command line, and read the artifact's tables; return the outcome, and all that
    was read."""
    out, said = folder / "out" / "submission.csv", io.StringIO()
    out.parent.mkdir()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            files = [str(artifact), "--test", str(test), "--out", str(out)]
            code = command(["--quiet", "predict", *files])
        left = [path.name for path in out.parent.iterdir()]
        if code == 2:
            one_line = len(said.getvalue().splitlines()) == 1
            return (REFUSED if one_line and not left else f"left {left}: {said.getvalue()}"), None
        if code or left != [out.name]:
            return f"exit status {code}, left {left}", None
        opened, told = Artifact.load(artifact), [out.read_bytes()]
        with contextlib.suppress(InputError):
            told += [opened.prior, opened.metrics]
            told += [opened.rows.to_csv(), opened.oof.to_csv() if opened.held_out else None]
            return SAME, told
        return REFUSED, None
    except Exception:
        return "traceback: " + traceback.format_exc(), None
    finally:
        shutil.rmtree(out.parent)


def artifact_case(
    source: Path, test: Path, expected: Any, folder: Path, rng: random.Random, sealed: bool
) -> str:
    """Damage one file of a copy of an artifact, keep its times, and use it."""
    copied = shutil.copytree(source, folder / "artifact")
    try:
        files = sorted(path for path in copied.rglob("*") if path.is_file())
        path = rng.choice(files)
        kinds = [with_byte]
        kinds += {".json": [with_key] * 2, ".csv": [with_cell]}.get(path.suffix, [])
        content, stat = path.read_bytes(), path.stat()
        path.write_bytes(rng.choice(kinds)(content, rng))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if sealed:
            with contextlib.suppress(InputError, TypeError, ValueError):
                seal(copied, read_json(copied / "artifact.json"))
        outcome, told = used(copied, test, folder)
        if outcome != SAME:
            return outcome
        return SAME if told == expected else "otherwise" if sealed else DIFFERENT
    finally:
        shutil.rmtree(copied)


def control(source: Path, test: Path, expected: Any, folder: Path, rewritten: bool) -> str:
    """Use an undamaged artifact, as it is or with other white space and another order of keys."""
    copied = shutil.copytree(source, folder / "artifact")
    try:
        for path in copied.rglob("*.json") if rewritten else ():
            path.write_text(json.dumps(reordered(json.loads(path.read_text())), indent=3))
        outcome, told = used(copied, test, folder)
        return outcome if outcome != SAME or told == expected else DIFFERENT
    finally:
        shutil.rmtree(copied)


def _serve(cases: list[Callable[[], str]], pipe: Any) -> None:
    # A library's own messages, such as those of a panic in Rust, are not the command's.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for case in cases:
        pipe.send(case())


def outcomes(cases: list[Callable[[], str]], until: float) -> Iterator[str]:
    """Run cases in a process of their own, so that a crash costs one case."""
    fork, start = multiprocessing.get_context("fork"), 0
    while start < len(cases) and time.monotonic() < until:
        ours, theirs = fork.Pipe()
        process = fork.Process(target=_serve, args=(cases[start:], theirs))
        process.start()
        theirs.close()
        try:
            while start < len(cases) and time.monotonic() < until:
                if not ours.poll(CASE_SECONDS):
                    raise TimeoutError
                outcome = ours.recv()
                start += 1
                yield outcome
        except TimeoutError:
            start += 1
            yield f"more than {CASE_SECONDS} s"
        except EOFError:
            process.join()
            start += 1
            yield f"crash: exit status {process.exitcode}"
        finally:
            process.kill()
            process.join()


def backbones(train_csv: Path, folder: Path) -> dict[str, Path]:
    """Save a tiny encoder and a tiny decoder with random weights."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

    from humanpref.models.scratch import train_tokenizer

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    pairs = read_pairs(train_csv)
    texts = [text for column in TEXT_COLUMNS for turns in pairs[column] for text in turns]
    tokenizer = train_tokenizer(texts, 400)
    torch.manual_seed(0)
    size = {"vocab_size": len(tokenizer), "intermediate_size": 32, **sizes}
    AutoModel.from_config(BertConfig(**size)).save_pretrained(folder / "tiny-encoder")
    tokenizer.save_pretrained(folder / "tiny-encoder")
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}\n{% endfor %}"
    )
    AutoModelForCausalLM.from_config(LlamaConfig(**size)).save_pretrained(folder / "tiny-decoder")
    tokenizer.save_pretrained(folder / "tiny-decoder")
    return {
        **dict.fromkeys(("decoder", "dpo"), folder / "tiny-decoder"),
        "embedding": folder / "tiny-encoder",
    }


def trained(folder: Path, families: tuple[str, ...], train_csv: Path) -> dict[str, Path]:
    """Train a small artifact of each family."""
    made = backbones(train_csv, folder) if set(families) - {"prior", "sparse", "boosted"} else {}
    artifacts = {}
    for family in families:
        preset, *settings = QUICK[family]
        if family in made:
            settings.append(f"model.backbone={made[family]}")
        config = load_config(preset, None, settings)
        artifacts[family] = train(config, train_csv, folder / family, folds=2).folder
    return artifacts


def study(
    folder: Path,
    families: tuple[str, ...],
    rows: int,
    artifacts: int,
    seed: int = 0,
    minutes: float = math.inf,
) -> dict[str, Counter]:
    """Return the number of cases by outcome: of damaged rows and artifacts, of artifacts whose
    digests were made afterwards, and of undamaged ones."""
    rng = random.Random(seed)
    generate.write_arena(folder / "arena", 80, 1)
    train_csv, test = folder / "arena" / "train.csv", folder / "arena" / "test.csv"
    sources = trained(folder, families, train_csv)
    few = io.StringIO()
    pd.read_csv(train_csv, dtype=str, keep_default_na=False)[:3].to_csv(few, index=False)
    content = few.getvalue().encode()
    expected = {family: used(source, test, folder)[1] for family, source in sources.items()}
    chosen = [families[number % len(families)] for number in range(artifacts)]

    def drawn() -> random.Random:
        return random.Random(rng.getrandbits(64))

    def known(family: str) -> tuple:
        return sources[family], test, expected[family], folder

    plan: dict[str, list[Callable[[], str]]] = {
        CONTROL: [
            partial(control, *known(family), rewritten)
            for family in families
            for rewritten in (False, True)
        ],
        "rows": [partial(rows_case, content, folder, drawn()) for _ in range(rows)],
        "artifacts": [partial(artifact_case, *known(f), drawn(), False) for f in chosen],
        SEALED: [partial(artifact_case, *known(f), drawn(), True) for f in chosen],
    }
    end, counts = time.monotonic() + 60 * minutes, {}
    for number, (name, cases) in enumerate(plan.items()):
        now = time.monotonic()
        until = now + (end - now) / (len(plan) - number)
        counts[name] = Counter(outcomes(cases, until))
    return counts


def faults(counts: dict[str, Counter]) -> list[str]:
    """Return the outcomes that must not be."""
    allowed = {name: {REFUSED, SAME} for name in counts}
    allowed[SEALED] = {REFUSED, SAME, "otherwise"}
    allowed[CONTROL] = {SAME}
    return [
        f"{name}: {outcome} ({times} times)"
        for name, own in counts.items()
        for outcome, times in own.items()
        if outcome not in allowed[name]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--artifacts", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--families", default=",".join(QUICK))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        families = tuple(options.families.split(","))
        counts = study(
            Path(folder), families, options.rows, options.artifacts, options.seed, options.minutes
        )
    print("| input | cases | refused | read the same | read differently |")
    print("|---|---|---|---|---|")
    for name, own in counts.items():
        other = own[DIFFERENT] + own["otherwise"]
        shares = [f"{own[REFUSED]}", f"{own[SAME]}", f"{other}"]
        print(f"| {name} | {own.total()} | {' | '.join(shares)} |")
    found = faults(counts)
    print("\n".join(found))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
