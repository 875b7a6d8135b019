"""The report's NLTK preprocessing (M2), our way (`humanpref.text.clean`) against the report's, side
by side.

    python benchmarks/preprocess_speed.py --json FILE [--rows N] [--train CSV] [--repeats 3]

All prompts and answers of a CSV (default: ../shared/data/arena_train.csv where it is, else the
synthetic arena of 1,000 rows). The report's way is a function of one text that makes everything
anew, as a notebook writes it down: the lemmatiser, the set of stopwords read from its file, the
regular expression, NLTK's `word_tokenize`, a lemma for every word. It is given what helps it: a set
rather than a list of stopwords, Python's cache of compiled expressions, and corpora that are loaded
before the clock starts. On `arena_train.csv` 40 % of its time go to the word tokenizer (thirty
expressions over every text), 31 % to the lemmas of 270,000 words, 22 % to deleting characters and 7
% to reading the stopwords 3,000 times; `shares` in the output says it for the rows at hand. The
letters of every script make the deletion dearer than `[^a-z\\s]` would be, which gives other
tokens: with that, and all else as it is, the ratio would be about 15 % lower.

Both ways run in turns, each starting with nothing remembered, and the fastest of the repeats
counts. `vs_report` is the ratio of CPU seconds in one process (the wall clock says the same on an
idle machine, and chance on a busy one). With several processes the wall clock counts, the start of
the processes included. `equal`: the same tokens for every text.
"""

import argparse
import itertools
import re
import tempfile
import time
import unicodedata
from pathlib import Path

import joblib
from nltk.corpus import stopwords
from nltk.stem import WordNetLemmatizer
from nltk.tokenize import word_tokenize

from humanpref.arena import write_arena
from humanpref.data import read_pairs
from humanpref.files import check_writable, write_json
from humanpref.schema import TEXT_COLUMNS
from humanpref.text import clean

REAL_ROWS = Path(__file__).parents[2] / "shared" / "data" / "arena_train.csv"


def _class(categories: str) -> str:
    """The characters of these Unicode categories, as the inside of a character class."""
    ranges = []
    for wanted, run in itertools.groupby(
        map(chr, range(0x110000)), lambda c: unicodedata.category(c)[0] in categories
    ):
        if wanted:
            first, *rest = run
            ranges.append(f"{re.escape(first)}-{re.escape(rest[-1] if rest else first)}")
    return "".join(ranges)


# What is neither a letter with its marks nor white space. It begins with a character class, which
# Python looks for quickly.
DELETED = f"[^{_class('LM')}\\s]+[{_class('M')}]*"


def report(text: str) -> list[str]:
    """The tokens of one text, the report's way."""
    lemmatizer = WordNetLemmatizer()
    stops = set(stopwords.words("english"))
    text = re.sub(DELETED, "", text.lower())
    return [lemmatizer.lemmatize(token) for token in word_tokenize(text) if token not in stops]


def shares(texts: list[str]) -> dict[str, float]:
    """Where the report's way spends its time: its steps one after the other, each over all
    texts."""
    stops, lemmatizer = set(stopwords.words("english")), WordNetLemmatizer()
    clock = [time.process_time()]
    for _ in texts:
        set(stopwords.words("english"))
    clock.append(time.process_time())
    deleted = [re.sub(DELETED, "", text.lower()) for text in texts]
    clock.append(time.process_time())
    tokens = [word_tokenize(text) for text in deleted]
    clock.append(time.process_time())
    for words in tokens:
        for word in words:
            if word not in stops:
                lemmatizer.lemmatize(word)
    clock.append(time.process_time())
    steps = ("stopwords", "deletion", "tokenizer", "lemmas")
    return {
        step: (b - a) / (clock[-1] - clock[0])
        for step, (a, b) in zip(steps, itertools.pairwise(clock), strict=True)
    }


def ours(texts: list[str], processes: int = 1) -> list[str]:
    """Our way, with nothing remembered."""
    clean._pieces().clear()
    return clean.preprocess(texts, processes=processes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="only the first N rows, or so many of the synthetic arena",
    )
    parser.add_argument("--train", type=Path, metavar="CSV")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    check_writable(options.json)

    with tempfile.TemporaryDirectory() as folder:
        source = options.train or (REAL_ROWS if REAL_ROWS.is_file() else None)
        if source is None:
            source = Path(folder, "train.csv")
            write_arena(Path(folder), options.rows or 1_000, seed=42)
        pairs = read_pairs(source)[: options.rows]
    texts = ["\n\n".join(turns) for column in TEXT_COLUMNS for turns in pairs[column]]

    clean.preprocess(["dogs"])  # NLTK's corpora are loaded
    report("dogs")
    report_seconds, our_seconds = [], []
    for _ in range(options.repeats):
        started = time.process_time()
        found = ours(texts)
        between = time.process_time()
        expected = [report(text) for text in texts]
        our_seconds.append(between - started)
        report_seconds.append(time.process_time() - between)
    equal = [text.split() for text in found] == expected
    started = time.perf_counter()
    equal &= ours(texts, joblib.cpu_count()) == found
    all_seconds = time.perf_counter() - started
    figures = {
        "source": source.name,
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "tokens": sum(map(len, expected)),
        "report_seconds": min(report_seconds),
        "our_seconds": min(our_seconds),
        "vs_report": min(report_seconds) / min(our_seconds),
        "equal": equal,
        "processes": joblib.cpu_count(),
        "our_wall_seconds_all_processes": all_seconds,
        "vs_report_all_processes": min(report_seconds) / all_seconds,
        "shares": shares(texts),
    }
    write_json(options.json, figures)
    print(
        f"{figures['source']}: {figures['texts']:,} texts, {figures['characters']:,} characters, "
        f"{figures['tokens']:,} tokens"
    )
    print(
        "the report's way: "
        + ", ".join(f"{name} {share:.0%}" for name, share in figures["shares"].items())
    )
    print("| | seconds | times the report's speed |\n|---|---|---|")
    print(f"| the report's way, one process | {figures['report_seconds']:.2f} | 1 |")
    print(f"| ours, one process | {figures['our_seconds']:.2f} | {figures['vs_report']:.1f} |")
    name = f"ours, {figures['processes']} processes, with their start (wall clock)"
    print(f"| {name} | {all_seconds:.2f} | {figures['vs_report_all_processes']:.1f} |")
    print(f"equal tokens: {equal}")


if __name__ == "__main__":
    main()
