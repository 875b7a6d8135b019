"""Generate the files that are pushed: the training and the acceptance script, and the inference
notebook.

Kaggle accepts only one file per kernel, so the shared code is copied into each.
"""

import ast
from pathlib import Path

import jupytext

KERNEL = Path(__file__).parent
PACKAGE = KERNEL.parent / "src" / "humanpref" / "kaggle"
SHARED = {
    "bootstrap": KERNEL / "bootstrap.py",
    "humanpref.kaggle.runtime.mounts": PACKAGE / "runtime" / "mounts.py",
    "humanpref.kaggle.competitions": PACKAGE / "competitions.py",
}
"""The modules whose code is copied into each kernel that imports them, since the kernel needs them
before humanpref is installed."""
TRAIN, INFER = KERNEL / "train" / "train.py", KERNEL / "infer" / "infer.ipynb"
ACCEPT = KERNEL / "accept" / "accept.py"


def split(script: Path) -> tuple[str, set[str], str]:
    """Split a script into the text before its imports, its imports of the standard library, and the
    text after its imports."""
    text = script.read_text(encoding="utf-8")
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
    lines = text.splitlines(keepends=True)
    imports = {ast.unparse(n) for n in nodes if getattr(n, "module", "") not in SHARED}
    before, after = lines[: nodes[0].lineno - 1], lines[nodes[-1].end_lineno :]
    return "".join(before), imports, "".join(after).strip()


def shared_by(script: Path) -> set[Path]:
    """Return the shared modules that a script imports, and those that they import in turn."""
    nodes = ast.parse(script.read_text(encoding="utf-8")).body
    paths = {SHARED[name] for n in nodes if (name := getattr(n, "module", "")) in SHARED}
    return paths.union(*map(shared_by, paths))


def assemble(script: Path) -> str:
    """Return a kernel's script, with the imports from the shared code replaced by that code."""
    before, imports, own = split(script)
    shared = [split(path) for path in SHARED.values() if path in shared_by(script)]
    imports = imports.union(*(part[1] for part in shared))
    header = "\n".join(sorted(imports, key=lambda line: (line.startswith("from"), line)))
    heading = "# Code that the kernels share: kernel/bootstrap.py and modules of humanpref."
    body = "\n\n\n".join([*(part[2] for part in shared), own])
    return f"{before}{header}\n\n{heading}\n{body}\n"


def pushed() -> dict[Path, str]:
    """Return the text of each file that is pushed."""
    notebook = jupytext.reads(assemble(KERNEL / "infer.py"), fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext would choose a random ID
    text = jupytext.writes(notebook, fmt="ipynb")
    scripts = {path: assemble(KERNEL / path.name) for path in (TRAIN, ACCEPT)}
    return scripts | {INFER: text.rstrip("\n") + "\n"}


if __name__ == "__main__":
    for path, text in pushed().items():
        path.write_text(text, encoding="utf-8")
