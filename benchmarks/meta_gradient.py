"""Compute one meta-gradient (eq. 4 to 9) in five ways, and print seconds, peak memory, and how far apart the results are.

    higher     the package of that name differentiates through the graph of the inner step
    torchopt   TorchOpt's MetaSGD does the same (extra `bench`; left out where it is not installed)
    func       double backward through torch.func
    jvp, gram  the package's engines; gram is left out where it does not apply

Each peak is that of a fresh process over `--steps` consecutive meta-gradients: the growth of the resident set on a CPU
(Linux), the allocated memory on a GPU. `--lockstep K` adds the package's engine on K losses at once, with its time a loss.
All ways differentiate through the same model, which has the layers that the package trains it with.
"""

import copy
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import time

import torch
from torch.func import functional_call, grad

from evomal_core.fast import gram
from evomal_core.models.forward import ForwardMap
from evomal_core.models.random_layers import seeded
from evomal_core.training import batches, unroll

from . import common

LIBRARIES = ("higher", "torchopt", "func")
WAYS = (*LIBRARIES, "jvp", "gram")


def torchopt_way(losses, model, train, validation, task_loss, config, seeds):
    """TorchOpt's meta-gradient of one loss; its interface is that of an engine of `evomal_core.training.unroll`."""
    import torchopt

    (loss,), (x, y) = losses, train[0]
    base = copy.deepcopy(model)
    optimiser = torchopt.MetaSGD(base, **config.sgd)
    with seeded(seeds[0], x.device):
        z = base(x)
    optimiser.step(loss(z, y))
    with seeded(seeds[1], x.device):
        z = base(validation[0])
    return [torch.autograd.grad(task_loss(z, validation[1]), tuple(loss.parameters()))]


def func_way(losses, model, train, validation, task_loss, config, seeds):
    """Double backward, `grad` through `grad`, with the first step of the base optimiser written out."""
    (loss,), (x, y) = losses, train[0]
    maps = ForwardMap(model)
    rate = config.first_rate

    def validation_loss(phi):
        def learned(weights):
            return functional_call(loss, phi, (maps(weights, x, seeds[0]), y))

        gradient = grad(learned)(maps.weights)
        new = tuple(w - rate * (g + config.base_weight_decay * w) for w, g in zip(maps.weights, gradient, strict=True))
        return task_loss(maps(new, validation[0], seeds[1]), validation[1])

    return [tuple(grad(validation_loss)({name: p.detach() for name, p in loss.named_parameters()}).values())]


def ways(setup: common.Setup) -> dict:
    """name -> function, for those ways that can be used here."""
    model, config = setup.problem.model, setup.config
    missing = set() if installed("torchopt") else {"torchopt"}
    missing |= {"gram"} if gram.applies(model, config) else set()
    libraries = {"torchopt": torchopt_way, "func": func_way}
    return {name: libraries.get(name) or unroll.engine_for(name, model, config) for name in WAYS if name not in missing}


def arguments_of(setup: common.Setup, batch: int) -> tuple:
    """What a way takes behind the losses."""
    problem, seeds = setup.problem, [setup.problem.layer_seed(0, "meta-layers", 0, 0, s) for s in (0, -1)]
    config = dataclasses.replace(setup.config, batch_size=batch)
    train = [batches.draw(setup.task, "train", batch, 0, "meta-train", 0, 0, 0)]
    validation = batches.draw(setup.task, "validation", batch, 0, "meta-validation", 0, 0)
    return problem.model.train(), train, validation, setup.task.task_loss, config, seeds


def peak_memory(setup: common.Setup, way: str, batch: int, steps: list[int]) -> list[float]:
    """The most memory in MB that consecutive meta-gradients needed up to each of `steps`; call it in a fresh process."""
    tiny = common.setup("diabetes", "logistic", str(setup.task.device))
    unroll_way = ways(setup)[way]
    unroll_way(tiny.losses(1), *arguments_of(tiny, 16))  # code is loaded, and no memory of any size is kept
    losses, rest = setup.losses(1), arguments_of(setup, batch)
    with Peak(setup.task.device) as peak:
        peaks = {}
        for step in range(1, max(steps) + 1):
            unroll_way(losses, *rest)
            peaks[step] = common.median([peak.growth() / 1e6])
    return [peaks[step] for step in steps]


class Peak:
    """The largest growth of memory within the block: allocated on a GPU; resident on a CPU, where it looks every 0.2 ms."""

    def __init__(self, device: torch.device):
        self.cuda, self.largest, self.running = device.type == "cuda", 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.before = torch.cuda.memory_allocated() if self.cuda else self._resident()
        self.largest = self.before
        if not self.cuda:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.look()

    def growth(self) -> int:
        return (torch.cuda.max_memory_allocated() if self.cuda else self.largest) - self.before

    def look(self) -> None:
        if not self.cuda:
            self.largest = max(self.largest, self._resident())

    def _watch(self):
        while self.running:
            self.look()
            time.sleep(2e-4)

    @staticmethod
    def _resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def apart(a, b) -> float:
    """The norm of the difference, divided by the larger of the two norms."""
    a, b = (torch.cat([g.reshape(-1) for g in gradient]).double() for gradient in (a, b))
    return float((a - b).norm() / max(a.norm(), b.norm(), 1e-300))


def seconds(setup: common.Setup, args) -> list[dict]:
    """Rows of milliseconds; the ways take turns."""
    loss, many, rest = setup.losses(1), setup.losses(args.lockstep), arguments_of(setup, args.batch)
    table = {name: way for name, way in ways(setup).items() if name in (args.ways or WAYS)}
    sides = {name: lambda f=function: f(loss, *rest) for name, function in table.items()}
    own = unroll.choose("auto", setup.problem.model, rest[4])
    if args.lockstep:
        sides[f"{own} x{args.lockstep}"] = lambda: ways(setup)[own](many, *rest)
    measured = common.turns(sides, args.repeats)
    reference = unroll.higher_engine(loss, *rest)[0]
    rows = []
    for name, values in measured.items():
        values = [s / (args.lockstep if name not in table else 1) for s in values]
        row = {"way": name, "ms": common.median(s * 1e3 for s in values)}
        for library in LIBRARIES:
            if library in measured and name != library:
                row[f"{library}/this"] = common.ratio(measured[library], values)
        if name in table:
            row["difference"] = common.median([apart(table[name](loss, *rest)[0], reference)])
        rows.append(row)
    return rows


def memory(args) -> list[dict]:
    """Rows of peaks in MB, each with one peak for every number in `args.steps`."""
    rows = []
    for way in ways(common.setup(args.dataset, args.model, "cpu", args.synthetic)):
        if args.ways and way not in args.ways:
            continue
        flags = [f"--{name}={getattr(args, name)}" for name in ("batch", "threads", "device")]
        flags += ["--synthetic"] if args.synthetic else []
        command = [sys.executable, "-m", __spec__.name, args.dataset, args.model, "--peak", way, *flags]
        # freed tensors go back to the system at once, so that the resident set is what is in use
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONWARNINGS": "ignore"}
        command += ["--steps", *map(str, args.steps)]
        kept = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        peaks = json.loads(kept.stdout) if kept.returncode == 0 else f"failed ({kept.returncode})"
        rows.append({"way": way, "peak_mb": peaks})
    return rows


def installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(arguments=None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lockstep", type=int, default=0, metavar="K")
    parser.add_argument("--only", choices=("seconds", "memory"), help="measure only one of the two")
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=[1],
        help="after how many the peak is read: 1 5 20",
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="measure these ways alone")
    parser.add_argument(
        "--peak", choices=WAYS, help="used by the benchmark itself: the fresh process that measures a peak"
    )
    args = parser.parse_args(arguments)
    common.start(args)
    if args.peak:
        setup = common.setup(args.dataset, args.model, args.device, args.synthetic)
        print(json.dumps(peak_memory(setup, args.peak, args.batch, args.steps)))
        return
    result = {"benchmark": "meta_gradient", "dataset": args.dataset, "model": args.model, "batch": args.batch}
    setup = common.setup(args.dataset, args.model, args.device, args.synthetic)
    result |= {"data": setup.data, "loss": str(setup.losses(1)[0])}
    result["libraries"] = {name: installed(name) for name in ("higher", "torchopt")}
    rows: dict[str, dict] = {}
    if args.only != "memory":
        rows = {row["way"]: row for row in seconds(setup, args)}
    if args.only != "seconds":
        result["steps_of_peak"] = args.steps
        for row in memory(args):
            rows[row["way"]] = rows.get(row["way"], {}) | row
    result["rows"] = list(rows.values())
    if not installed("torchopt"):
        result["note"] = "torchopt is not installed: ./run uv pip install -e '.[bench]'"
    common.report(result, args)


if __name__ == "__main__":
    main()
