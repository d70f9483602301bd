"""The core stays small, and imports run downward."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "evomal_core"
FILES = sorted(PACKAGE.rglob("*.py"))
# What compiles, tunes, finds and keeps losses, and the settings, streams and files that this needs
METHOD = ("losses", "training", "search", "experiments", "config.py", "streams.py", "files.py")
# A room, and the rooms that it may not know.
ABOVE = {
    "own": {"fast", "experiments"},
    "losses": {"own", "fast", "remedies", "training", "search", "experiments", "tasks", "models"},
    "tasks": {"own", "fast", "remedies", "losses", "training", "search", "experiments", "models"},
    "models": {"own", "fast", "remedies", "losses", "training", "search", "experiments"},
    "training": {"own", "fast", "search", "remedies", "experiments"},
    "fast": {"own", "search", "remedies", "experiments"},
    "search": {"own", "fast", "remedies", "experiments"},
    "remedies": {"own", "fast", "experiments"},
    "experiments": {"own", "fast"},
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


def lines_of(*rooms: str) -> int:
    counts = [code_lines(path) for path in FILES if path.relative_to(PACKAGE).parts[0] in rooms]
    assert counts, "the room was found"
    return sum(counts)


def test_the_method_and_its_accelerations_stay_small():
    assert lines_of(*METHOD) < 3_300  # of which what makes a loss a drop-in is a tenth
    assert lines_of("remedies") < 200
    assert lines_of("fast") < 750
    assert lines_of("own") < 1_200


@pytest.mark.parametrize(
    "path", [*PACKAGE.glob("tasks/*.py"), *PACKAGE.glob("models/*.py")], ids=lambda path: path.name
)
def test_a_data_set_or_an_architecture_is_one_short_file(path):
    assert code_lines(path) <= 120


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
