"""The digits of one smoke search and its test, as JSON, with the versions that they are promised for.

With EVOMAL_PORTABLE=1 they are the same on any x86-64 CPU: tests/test_portable.py compares them with those committed, which

    EVOMAL_PORTABLE=1 ./run python tests/portable_digits.py >tests/fixtures/portable.json

makes anew for other versions.
"""

import json
import tempfile

import evomal_core as ec
from evomal_core import machine

NAMES = ("portable", "fitness", "leaders", "train_metric", "validation_metric", "test_metric", "history", "loss")
VERSIONS = ("libc", "torch", "numpy", "scikit-learn", "deap")


def digits() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        run = ec.run_cell(ec.Cell("diabetes", "mlp", "evomal", 0, "smoke"), results_dir=folder, device="cpu")
    found = {name: run.data[name] for name in NAMES}
    found["history"] = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in found["history"]]
    found["loss"] = {name: value for name, value in found["loss"].items() if name not in ("schema", "version")}
    return {"versions": {name: machine.versions()[name] for name in VERSIONS}, **found}


if __name__ == "__main__":
    print(json.dumps(digits(), indent=1))
