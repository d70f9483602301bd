"""The core stays small, and imports run downward."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "evomal_core"
FILES = sorted(PACKAGE.rglob("*.py"))
# What compiles, tunes and finds losses, and the settings, streams and files that this needs
CORE = ("losses", "training", "search", "config.py", "streams.py", "files.py")
# A room, and the rooms that it may not know.
ABOVE = {
    "losses": {"training", "search", "experiments", "tasks", "models"},
    "training": {"search", "experiments"},
    "search": {"experiments"},
    "tasks": {"losses", "training", "search", "experiments", "models"},
    "models": {"losses", "training", "search", "experiments"},
}
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    source = path.read_text(encoding="utf-8")
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False):
            documentation |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
    return len(lines - documentation)


def test_search_compilation_and_meta_training_are_below_two_thousand_lines_of_code():
    counts = {path: code_lines(path) for path in FILES}
    core = [n for path, n in counts.items() if path.relative_to(PACKAGE).parts[0] in CORE]
    assert len(core) > 20
    assert sum(core) < 2_000
    assert sum(counts.values()) < 3_000  # with data sets, base models and records


def test_the_package_does_not_know_the_notebooks():
    assert not [path for path in FILES if "evomal_notebooks" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", [*FILES, *ROOT.glob("notebooks/*/*.py")], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("room", ABOVE)
def test_imports_run_downward(room):
    known = set()
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level == 2 or (node.module or "").startswith("evomal_core")):
                parts = (node.module or "").removeprefix("evomal_core").strip(".").split(".")
                known |= {parts[0]} if parts[0] else {alias.name for alias in node.names}
    assert known, "the imports were found"
    assert not known & ABOVE[room]
