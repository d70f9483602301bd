"""Run notebooks from first to last cell and keep their outputs: `python -m evomal_notebooks.rebuild [NAME …]`; default: all.

A notebook runs with its own parameters, in its own folder and in this interpreter's kernel. What belongs to one run alone is
left out of the file: times, and messages on stderr. The line of links at the end, and what the file says of its kernel, are
written anew; `ruff format` has the last word.
"""

import subprocess
import sys

import nbformat
from nbclient import NotebookClient

from evomal_core.machine import ROOT

FOLDER = ROOT / "notebooks"
MOST = 100_000  # bytes of a notebook with its outputs
# As JupyterLab itself writes it: it shows a notebook with any other as unsaved
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# Reading order -> what else belongs to it
ORDER = {
    "quickstart": ("table3", "table6"),
    "explore": ("table3", "table2"),
    "own_model": ("quickstart", "table4"),
    "table1": ("table6", "fig6"),
    "table2": ("robust", "fig8"),
    "table3": ("protocol", "robust"),
    "table4": ("table2", "table5"),
    "table5": ("fig4", "fig5"),
    "table6": ("fig6", "appendix_a"),
    "fig4": ("table5", "initialisation"),
    "fig5": ("fig4", "table5"),
    "fig6": ("table6", "table1"),
    "fig7": ("fig8", "table2"),
    "fig8": ("table2", "robust"),
    "appendix_a": ("fig6", "table6"),
    "protocol": ("table3", "robust"),
    "robust": ("initialisation", "remedies"),
    "remedies": ("robust", "initialisation"),
    "initialisation": ("robust", "fig4"),
}


def links(name: str) -> str:
    """The last line of a notebook: the one before it, the next one, and what is related, of those that are there."""
    there = [each for each in ORDER if (FOLDER / f"{each}.ipynb").exists()]
    place = there.index(name)
    parts = {"Previous": there[max(0, place - 1) : place], "Next": there[place + 1 : place + 2]}
    parts["Related"] = [each for each in ORDER[name] if each in there]
    return " · ".join(
        f"{word}: {', '.join(f'[{each}]({each}.ipynb)' for each in names)}" for word, names in parts.items() if names
    )


def rebuild(name: str) -> int:
    """Run one notebook in place; returns its size in bytes.

    Raises:
        ValueError: a notebook of this name is not there, or has more bytes than are allowed.
        nbclient.exceptions.CellExecutionError: a cell failed; the file is as it was.
    """
    path = FOLDER / f"{name}.ipynb"
    if name not in ORDER or not path.exists():
        raise ValueError(f"expected the name of a notebook of {FOLDER}, one of {', '.join(ORDER)}; got {name!r}")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number:02}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    last = notebook.cells[-1]
    kept = [line for line in last.source.splitlines() if not line.startswith(("Previous: ", "Next: "))]
    last.source = "\n".join(kept).rstrip() + "\n\n" + links(name)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": dict(notebook.metadata.language_info)}
    )
    nbformat.write(notebook, path)
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(path)], cwd=ROOT, check=True)
    if (size := path.stat().st_size) > MOST:
        raise ValueError(f"expected at most {MOST} bytes, got {size}: {path.name} needs fewer or smaller figures")
    return size


if __name__ == "__main__":
    for each in sys.argv[1:] or [name for name in ORDER if (FOLDER / f"{name}.ipynb").exists()]:
        print(f"{each}: {rebuild(each):,} bytes", flush=True)
