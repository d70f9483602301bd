"""Peak memory of a meta-gradient and of a training step, for every base model: by arithmetic, and measured.

The arithmetic counts, for a batch of B instances, B times what the backward pass of one keeps (A), and tensors as large as
the weights (W). A training step holds weights, momenta and gradient beside the activations: A B + 3 W. The meta-gradient of
the engine `jvp` holds weights, gradient, moved weights, the task loss's gradient and the direction, and one graph at a time
for a single loss: A B + 5 W; a lockstep keeps the first graph while it works on the second: 2 A B + 5 W. Data, the kernels'
own scratch memory and the library are not counted. A measurement is the growth of resident memory in a fresh process on a
CPU, and of allocated memory on a GPU.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace

import evomal_core as ec
from evomal_core.models.forward import activation_bytes
from evomal_core.training import Trial, run_trial

from . import common
from .meta_gradient import Peak, peak_memory

ROWS = {"mlp": "diabetes", "logistic": "mnist", "lenet5": "mnist"}  # of the others: cifar10
PURPOSES = ("step", "meta")


def row_of(model: str) -> str:
    """The data set on which a model's memory is counted."""
    return ROWS.get(model, "cifar10")


def arithmetic(setup: common.Setup, batch: int) -> dict[str, float]:
    """Megabytes of a training step, of a meta-gradient, and of a meta-gradient in lockstep."""
    model = setup.problem.model.train()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    kept = batch * activation_bytes(model, setup.problem.probe())
    counts = {"step": kept + 3 * weights, "meta": kept + 5 * weights, "meta in lockstep": 2 * kept + 5 * weights}
    return {name: common.median([value / 1e6]) for name, value in counts.items()}


def measured(setup: common.Setup, purpose: str, batch: int) -> float:
    """The peak in MB of two training steps, or of one meta-gradient; call it in a fresh process."""
    if purpose == "meta":
        return peak_memory(setup, "jvp", batch, [1])[0]
    config = replace(setup.config, batch_size=batch)
    tiny = common.setup("diabetes", "logistic", str(setup.task.device))
    run_trial(tiny.losses(1), tiny.problem, tiny.config, 0, Trial("fitness", 2, (0,), parts=()))
    problem = setup.problem
    with Peak(setup.task.device) as peak:
        run_trial(setup.losses(1), problem, config, 0, Trial("fitness", 2, (0,), parts=()))
    return common.median([peak.growth() / 1e6])


def in_a_fresh_process(model: str, purpose: str, args) -> float | str:
    """What `measured` says there; text if the process failed, for want of memory for example."""
    flags = [f"--{name}={getattr(args, name)}" for name in ("batch", "threads", "device")]
    command = [sys.executable, "-m", __spec__.name, model, "--purpose", purpose, "--synthetic", *flags]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONWARNINGS": "ignore"}
    kept = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(kept.stdout) if kept.returncode == 0 else f"failed ({kept.returncode})"


def main(arguments=None) -> None:
    parser = common.parser(__doc__, problem=False)
    parser.add_argument("models", nargs="*", help="default: all eleven")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--measure", action="store_true", help="measure, too, in a fresh process each")
    parser.add_argument("--most", type=float, default=20_000, metavar="MB", help="measure nothing that needs more")
    parser.add_argument("--purpose", choices=PURPOSES, help="used by the benchmark itself: the fresh process")
    args = parser.parse_args(arguments)
    common.start(args)
    if args.purpose:
        (model,) = args.models
        setup = common.setup(row_of(model), model, args.device, synthetic=row_of(model) != "diabetes")
        print(json.dumps(measured(setup, args.purpose, args.batch)))
        return
    rows = []
    for model in args.models or ec.MODELS:
        setup = common.setup(row_of(model), model, args.device, synthetic=row_of(model) != "diabetes")
        row = {"model": model, "data": row_of(model)} | arithmetic(setup, args.batch)
        for purpose in PURPOSES if args.measure else ():
            small = row[purpose] < args.most
            row[f"{purpose} measured"] = in_a_fresh_process(model, purpose, args) if small else "not measured"
        rows.append(row)
    common.report({"benchmark": "memory", "unit": "MB", "batch": args.batch, "rows": rows}, args)


if __name__ == "__main__":
    main()
