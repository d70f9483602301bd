"""The ways to install this package agree with one another and with what its code imports."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from evomal_core import portable

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # PyPI -> conda-forge, where they differ
# Module -> package on PyPI, where they differ.
PACKAGE_OF = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml", "distributed": "dask", "IPython": "ipython"}


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of pyproject.toml with those of the extras, by name."""
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def locked() -> dict[str, list[tuple[Version, int]]]:
    """Version and number of hashes of every entry of the lock; a name has several where versions of Python differ."""
    entries: dict[str, list[tuple[Version, int]]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", LOCK):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            hashes = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
            entries.setdefault(canonicalize_name(match[1]), []).append((Version(match[2]), hashes))
    return entries


# --- pyproject.toml, environment.yml, requirements.lock, the imports ---


def test_conda_environment_has_the_requirements_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    ours = {CONDA_NAMES.get(name, name): r.specifier for name, r in declared("notebooks", "dev").items()}
    ours["python"] = Requirement("python" + PYPROJECT["project"]["requires-python"]).specifier
    theirs = {
        r.name: r.specifier for r in (Requirement(e) for e in environment if isinstance(e, str)) if r.name != "pip"
    }
    assert theirs == ours
    assert [e for e in environment if not isinstance(e, str)] == [{"pip": ["-e ."]}]


@pytest.mark.parametrize("name", sorted(declared("notebooks", "dev")))
def test_requirement_is_locked_within_its_bounds(name):
    versions = [version for version, _ in locked().get(name, [])]
    assert versions, f"{name} is not in requirements.lock; make it anew with the command in its first lines"
    assert all(declared("notebooks", "dev")[name].specifier.contains(version) for version in versions)


def test_the_yardstick_of_the_benchmarks_is_an_extra_outside_the_lock():
    """./run installs what the package and its tests need; benchmarks/README.md says how to add TorchOpt."""
    bench = {r.name: str(r.specifier) for r in map(Requirement, PYPROJECT["project"]["optional-dependencies"]["bench"])}
    assert bench.keys() == {"torchopt", "graphviz", "atheris"} and bench["torchopt"] == "==0.7.3"
    assert not bench.keys() & locked().keys()
    assert "./run uv pip install -e '.[bench]'" in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_every_locked_entry_has_a_hash():
    entries = locked()
    assert sum(map(len, entries.values())) == len(re.findall(r"^[^\s#]", LOCK, re.M))  # the parser saw every entry
    assert [name for name, found in entries.items() if any(hashes == 0 for _, hashes in found)] == []


def test_lock_names_no_place():
    """No address of an index, no folder of the machine it was made on: these would not exist elsewhere."""
    assert re.findall(r"\S*(?:://|@ file|(?<![\w.])/\w)\S*|--(?:extra-)?index-url\s\S+|--find-links\s\S+", LOCK) == []


def third_party_imports(*patterns: str) -> dict[str, str]:
    """Top-level module -> one file of those packages that imports it, anywhere in the file."""
    modules = {}
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            modules |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {m: p for m, p in modules.items() if m not in sys.stdlib_module_names and not m.startswith("evomal_")}


@pytest.mark.parametrize(
    "pattern, extras",
    [("evomal_core/**/*.py", ("cluster",)), ("notebooks/*/*.py", ("cluster", "notebooks"))],
    ids=["core", "notebooks"],
)
def test_every_import_is_declared(pattern, extras):
    imports = third_party_imports(pattern)
    assert "torch" in imports  # the search itself works
    available = declared(*extras)
    missing = {m: p for m, p in imports.items() if canonicalize_name(PACKAGE_OF.get(m, m)) not in available}
    assert missing == ({"matplotlib": "evomal_core/own/report.py"} if pattern.startswith("evomal_core") else {})


def test_readme_names_the_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "./run papermill notebooks/table3.ipynb out.ipynb -p seed 3" in readme
    assert "./run pytest" in readme


# --- ./run, with a stand-in for uv: no network, no packages ---

needs_sh = pytest.mark.skipif(shutil.which("sh") is None or os.name == "nt", reason="./run is a POSIX shell script")
TOOLS = ("sh", "cat", "cksum", "dirname", "mkdir", "rm", "rmdir", "sed", "sleep", "env", "true")  # what ./run may use
# Makes an environment as `uv venv` does, and writes down every other call.
UV = """#!/bin/sh
if [ "$1" = venv ]; then exec "{python}" -m venv --without-pip "$5"; fi
echo "$*" >>"{log}"
[ ! -e "{log}.fail" ] || exit 7
sleep "$(cat "{log}.slow" 2>/dev/null || echo 0)"
"""


@pytest.fixture
def repo(tmp_path):
    """A copy of what ./run reads, and a PATH with basic tools, this Python and a stand-in for uv."""
    folder, tools = tmp_path / "a repo", tmp_path / "tools"  # with a space: paths must be quoted
    folder.mkdir()
    tools.mkdir()
    for name in ("run", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in TOOLS:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    script(tools / "python3", f'exec "{sys.executable}" "$@"')
    script(tools / "uv", UV.format(python=sys.executable, log=tmp_path / "log"))
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def start(repo: Path, *command: str, **changes: str) -> subprocess.Popen:
    """Start ./run from another folder, with nothing on PATH but the tools."""
    return subprocess.Popen(
        [repo / "run", *command],
        cwd=repo.parent,
        env={"PATH": str(repo.parent / "tools")} | changes,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(repo: Path, *command: str, **changes: str) -> tuple[int, str, str]:
    process = start(repo, *command, **changes)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def installs(repo: Path) -> list[str]:
    """The uv calls so far, without options."""
    log = repo.parent / "log"
    return [" ".join(line.split()[:2]) for line in log.read_text().splitlines()] if log.exists() else []


ONE_INSTALL = ["pip sync", "pip install"]
WHERE = ("python", "-c", "import os, sys; print(sys.prefix, os.environ['VIRTUAL_ENV'], os.getcwd(), sep='\\n')")


@needs_sh
@pytest.mark.parametrize("name", ["run", ".ci/run"])
def test_script_is_executable_and_parses(name):
    assert os.access(ROOT / name, os.X_OK)
    interpreter = (ROOT / name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#!")
    subprocess.run([interpreter, "-n", ROOT / name], check=True)


@needs_sh
def test_run_installs_once_and_runs_in_the_folder_of_the_caller(repo):
    expected = f"{repo / '.venv'}\n{repo / '.venv'}\n{repo.parent}\n"
    code, out, err = run(repo, *WHERE)
    assert (code, out) == (0, expected), err
    assert installs(repo) == ONE_INSTALL
    assert run(repo, *WHERE) == (0, expected, "")  # and says nothing the second time
    assert installs(repo) == ONE_INSTALL


@needs_sh
def test_run_sets_what_portable_numerics_need_before_the_command_starts(repo):
    (repo / "evomal_core").mkdir()
    shutil.copy(portable.__file__, repo / "evomal_core")
    read = ("python", "-c", "import json, os; print(json.dumps(dict(os.environ)))")
    usual = json.loads(run(repo, *read)[1])
    assert not portable.SETTINGS.keys() & usual.keys()
    code, out, err = run(repo, *read, EVOMAL_PORTABLE="1")
    assert code == 0, err
    assert json.loads(out) == usual | portable.SETTINGS | {"EVOMAL_PORTABLE": "1"}


@needs_sh
@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_run_installs_again_after_a_change_and_keeps_the_venv(repo, name):
    run(repo, "true")
    (repo / ".venv" / "keep").touch()
    with (repo / name).open("a") as file:
        file.write("# changed\n")
    run(repo, "true")
    assert installs(repo) == ONE_INSTALL * 2
    assert (repo / ".venv" / "keep").exists()


@needs_sh
def test_run_makes_the_venv_anew_when_the_repository_was_moved(repo):
    run(repo, "true")
    (repo / ".venv" / "stale").touch()
    repo = repo.rename(repo.parent / "moved")
    assert run(repo, *WHERE)[1].startswith(f"{repo / '.venv'}\n")
    assert not (repo / ".venv" / "stale").exists()


@needs_sh
def test_run_repeats_a_failed_install(repo):
    fail = repo.parent / "log.fail"
    fail.touch()
    code, out, _ = run(repo, "python", "-c", "print('must not be reached')")
    assert (code, out) == (7, "")
    fail.unlink()
    assert run(repo, "python", "-c", "print('reached')")[:2] == (0, "reached\n")
    assert installs(repo) == ["pip sync", *ONE_INSTALL]


@needs_sh
@pytest.mark.parametrize("lock", ["flock", "mkdir"])
def test_two_runs_at_once_install_once(repo, lock):
    if lock == "flock":
        if not (found := shutil.which("flock")):
            pytest.skip("no flock on this machine")
        (repo.parent / "tools" / "flock").symlink_to(found)
    (repo.parent / "log.slow").write_text("1")
    processes = [start(repo, "python", "-c", "print('done')") for _ in range(2)]
    outputs = [p.communicate(timeout=60) for p in processes]
    assert [out for out, _ in outputs] == ["done\n"] * 2, outputs
    assert sum("waiting for another" in err for _, err in outputs) == 1
    assert installs(repo) == ONE_INSTALL


@needs_sh
def test_run_says_which_python_it_needs(repo):
    python = repo.parent / "tools" / "python3"
    script(python, "echo '3.9.2 too old'; exit 1")
    code, out, err = run(repo, "true")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "run: expected Python >= 3.11 on PATH, found python3 is 3.9.2 too old"
    python.unlink()
    assert run(repo, "true")[2].splitlines()[-1] == "run: expected Python >= 3.11 on PATH, found none"
    assert not (repo / ".venv").exists()


@needs_sh
def test_run_passes_on_exit_status_and_arguments(repo):
    code, out, _ = run(repo, "python", "-c", "import sys; print(sys.argv[1:]); sys.exit(5)", "a b", "*", "")
    assert (code, out) == (5, "['a b', '*', '']\n")
    assert run(repo)[0] == 1
