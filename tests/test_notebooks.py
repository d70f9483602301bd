"""The notebooks as files, and table3 as papermill runs it. (That they run at all is nbval's, see pyproject.toml.)"""

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
MACHINE_PATH = re.compile(r"/home/|/root/|/tmp/|/work/|/Users/|/mnt/|site-packages|[A-Z]:\\\\")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def checked(cell) -> bool:
    """Whether nbval compares the outputs of a cell."""
    return "NBVAL_CHECK_OUTPUT" in cell.source or "nbval-check-output" in cell.metadata.get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=NAMES)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_the_notebooks_are_there():
    assert {"quickstart", "table3"} <= set(NAMES)


def test_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size <= 100_000


def test_one_parameters_cell_of_plain_described_values(notebook):
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    statements = ast.parse(cell.source).body
    for statement, line in zip(statements, cell.source.splitlines(), strict=True):
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)  # papermill writes after this cell, so nothing may be derived in it
        assert re.search(r"  # \w", line), f"no help for {line!r}"


def test_parameters_are_read_right_behind_their_cell(notebook):
    cells = code_cells(notebook)
    (place,) = [n for n, cell in enumerate(cells) if cell.metadata.get("tags") == ["parameters"]]
    assert place <= 1 and "read_parameters(" in cells[place + 1].source


def test_the_answer_comes_first(path, notebook):
    """Title, a hidden cell of one call, and of its outputs a bold sentence, a figure and a list."""
    title, first = notebook.cells[:2]
    if path.stem == "explore":  # whose figure is the widget; its Checks hold the sentence to the records
        assert re.fullmatch(r"# .+\n\n\*\*.+\.\*\* .+", title.source)
        assert "image/png" in code_cells(notebook)[1].outputs[0].data
        return
    assert title.source.startswith("# ") and "\n" not in title.source
    assert first.metadata.jupyter.source_hidden and "hide_input" in first.metadata.tags
    assert len(first.source.splitlines()) <= 3
    sentence, figure, meaning = first.outputs
    assert re.fullmatch(r"\*\*.+\.\*\*", sentence.data["text/markdown"])
    assert "image/png" in figure.data
    assert 1 <= len(re.findall("^- ", meaning.data["text/markdown"], re.M)) <= 5
    assert notebook.cells[-1].source.splitlines()[-1].startswith(("Previous: [", "Next: ["))


def test_figures_are_sharp_and_said_in_words(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                about, data = output.metadata["image/png"], base64.b64decode(output.data["image/png"])
                width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
                assert (about["width"], about["height"]) == (width // 2, height // 2)
                assert len(about["alt"]) > 15


def test_committed_with_the_outputs_of_one_run_in_order(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [output for output in cell.outputs if output.output_type == "error"]
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
        if checked(cell):
            assert cell.outputs, "nbval is to compare an output that is not there"
    assert any(checked(cell) for cell in cells)


def test_names_no_machine_and_the_default_kernel(path, notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
    assert notebook.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
    about = {"codemirror_mode", "file_extension", "mimetype", "name", "nbconvert_exporter", "pygments_lexer", "version"}
    assert set(notebook.metadata.language_info) == about, "JupyterLab shows any other as unsaved"
    assert "papermill" not in notebook.metadata
    outputs = json.dumps([notebook.metadata, *[[cell.metadata, cell.get("outputs")] for cell in notebook.cells]])
    images = re.compile(r'"image/png": "[^"]*"')
    assert not MACHINE_PATH.search(images.sub("", outputs))


def papermill(tmp_path, *parameters):
    """Run table3 from another folder; (finished process, the notebook it wrote)."""
    out = tmp_path / "out.ipynb"
    given = [
        part for name, value in zip(parameters[::2], parameters[1::2], strict=True) for part in ("-p", name, value)
    ]
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / "table3.ipynb"), str(out), "-k", "python3"]
    done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    return done, nbformat.read(out, as_version=4)


def test_papermill_computes_a_seed_names_a_damaged_record_and_ends_with_the_table(tmp_path):
    results = tmp_path / "runs"
    damaged = results / "diabetes" / "mlp" / "evomal" / "smoke-paper" / "seed0" / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"schema": 1, "cell": ')
    done, notebook = papermill(
        tmp_path,
        *("seed", "3", "budget", "smoke", "datasets", "diabetes", "methods", "baseline,random"),
        *("results_dir", str(results), "workers", "1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    records = {"/".join(path.parts[-4:-1]) for path in results.rglob("record.json") if path != damaged}
    assert records == {
        f"{name}/seed3" for name in ("baseline/smoke-paper", "baseline/smoke-released", "random/smoke-paper")
    }
    tables = [
        output.data["text/html"]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "conventions.across" in cell.source and "text/html" in output.get("data", {})
    ]
    assert "0.3829 ± 0.0065" in tables[0]
    assert "(n = 1)" in tables[0]
    text = "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)
    assert "generation 2/2" in text, "progress, a line a generation"
    assert f"{damaged} is damaged" in text
    tidy = pandas.read_csv(results / "figures" / "table3.csv")
    assert set(tidy.query("source == 'own'")["method"]) == {"baseline", "random"}
    assert r"\toprule" in (results / "figures" / "table3.tex").read_text(encoding="utf-8")


def test_papermill_with_an_unknown_parameter_fails_and_names_the_near_miss(tmp_path):
    done, notebook = papermill(tmp_path, "sede", "3", "results_dir", str(tmp_path / "runs"))
    assert done.returncode != 0
    assert "a parameter of this notebook must be one of seed, " in done.stderr
    assert "Did you mean 'seed'?" in done.stderr
    assert not (tmp_path / "runs").exists(), "nothing is computed"
    ran = [cell for cell in code_cells(notebook) if cell.execution_count]
    assert "read_parameters(" in ran[-1].source


def test_nbval_is_red_when_a_number_of_a_record_is_changed(tmp_path):
    """In a copy, whose packages find their own reference records."""
    for part in ("evomal_core", "notebooks/evomal_notebooks", "results/reference"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "notebooks/table3.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    path = tmp_path / "results/reference/diabetes/mlp/baseline/paper-paper/seed1/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"test_metric": record["test_metric"] + 0.01}))
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "notebooks/table3.ipynb"]
    given = os.environ | {"PYTHONPATH": str(tmp_path), "EVOMAL_RESULTS": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout[-3000:]
    compared = [
        n for n, cell in enumerate(code_cells(nbformat.read(ROOT / "notebooks/table3.ipynb", 4))) if checked(cell)
    ]
    assert {int(n) for n in re.findall(r"FAILED .*::Cell (\d+)", done.stdout)} == set(compared)
