"""Loss landscapes of trained base models (Fig. 7): slices through weight space, the files that keep them, and what they say.

A slice shows the task loss (not the loss that the model was trained under, which differs by method) and the error at
theta + alpha d, for a random direction d that is normalised filter by filter (Li et al., NeurIPS 2018). As in their released
code, with `--dir_type weights --xnorm filter --xignore biasbn`,

- d is Gaussian, and each filter of a convolution and each row of a Linear is scaled to the norm of the model's own weights;
- d is zero for biases and for the weights of BatchNorm, which are the parameters with one dimension;
- BatchNorm keeps the running statistics of the trained model at every point, and the model is in evaluation mode.

Files lie beside the records of the searches, and an existing one is not computed again:

    <results_dir>/landscapes/<dataset>/<model>/<method>/<budget>-<protocol>/seed<k>.json          slices in several directions
                                                                            contour-seed<k>.json  a plane of two directions
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import evomal_core as ec
from evomal_core import files, streams
from evomal_core.checks import check
from evomal_core.experiments import store
from evomal_core.machine import ROOT, environment
from evomal_core.tasks import find_device
from evomal_core.training import batches

from .report import REFERENCE, SOURCES

SCHEMA = 1
DIRECTIONS = 3  # of the slices of a model
POINTS = 21  # of a slice, and of each side of a plane
INSTANCES = 2_000  # first instances of the part, on which every point is measured
RADIUS = 0.5  # of `rise`; at alpha = 1 the random part of a filter is as long as the filter
CONTOURS = ("baseline", "evomal")  # methods of whose first seed a plane is kept
KINDS = {"slice": "seed{}.json", "contour": "contour-seed{}.json"}  # kind -> name of its file
FIELDS = {"cell": dict, "loss": str, "directions": list, "points": list, "values": dict, "flatness": dict}


@dataclass(frozen=True, eq=False)
class Landscape:
    """A file: the cell, all that it holds, and whether it is a "reference" (committed) or an "own" one."""

    cell: ec.Cell
    data: dict
    source: str = "own"

    @property
    def points(self) -> np.ndarray:
        """alpha, (P,)."""
        return np.array(self.data["points"])

    def values(self, name: str) -> np.ndarray:
        """The "loss" or the "error" at the points: (K, P) of K directions, (P, P) of a plane; inf where it is not finite."""
        return np.array([[math.inf if v is None else v for v in row] for row in self.data["values"][name]], float)


def direction(model: torch.nn.Module, seed: int, index: int = 0) -> list[torch.Tensor]:
    """A random direction, one float64 tensor a parameter, on the parameter's device; see the top of this module.

    The Gaussian numbers are those of the stream `(seed, "landscape", index)`: models of one architecture and seed have the
    same ones, so methods are compared in the same directions but for the scale of their filters. A parameter that is not
    trained has zeros.
    """
    generator, result = streams.torch_generator(seed, "landscape", index), []
    for p in model.parameters():
        d = torch.zeros(p.shape, dtype=torch.float64)
        if p.ndim > 1 and p.requires_grad:
            rows = torch.randn(len(p), p[0].numel(), generator=generator, dtype=torch.float64)  # (filters, weights)
            norms = p.detach().double().cpu().flatten(1).norm(dim=1, keepdim=True)
            d = (rows * (norms / rows.norm(dim=1, keepdim=True))).reshape(p.shape)
        result.append(d.to(p.device))
    return result


def alphas(points: int = POINTS) -> list[float]:
    """`points` steps from −1 to 1, evenly spaced and with 0 in their middle. Raises ValueError unless their number is odd."""
    check(isinstance(points, int) and points % 2 == 1 and points > 1, "points", "an odd number, at least 3", points)
    half = points // 2
    return [k / half for k in range(-half, half + 1)]


@torch.no_grad()
def measured(
    model: torch.nn.Module, task: ec.Task, part: str = "test", instances: int = INSTANCES
) -> tuple[float, float]:
    """(task loss, performance metric) of a model in evaluation mode on the first `instances` of a part; 0 stands for all."""
    outputs, y = zip(
        *((model(x), y) for x, y in batches.in_order(task, part, task.evaluation_batch, instances)), strict=True
    )
    outputs, y = torch.cat(outputs), torch.cat(y)
    return float(task.task_loss(outputs, y)), float(task.metric(outputs, y))


@torch.no_grad()
def along(model, task, directions: Sequence, steps: Iterable[Sequence[float]], part="test", instances=INSTANCES):
    """(task loss, metric), each (len(steps),), at theta + Σ a_k d_k for each row a of `steps`; the model stays as it is.

    The points are added up in float64 and rounded to the type of the weights.
    """
    moved = copy.deepcopy(model).eval()
    parameters = list(moved.parameters())
    start = [p.detach().double().clone() for p in parameters]
    found = []
    for row in steps:
        for place, (p, w) in enumerate(zip(parameters, start, strict=True)):
            p.copy_(w + sum(a * d[place] for a, d in zip(row, directions, strict=True)))
        found.append(measured(moved, task, part, instances))
    return tuple(np.array(column) for column in zip(*found, strict=True))


def rise(points: Sequence[float], values, radius: float = RADIUS):
    """How flat slices are: the mean of L(alpha) − L(0) over the points with 0 < |alpha| ≤ radius, in units of L.

    The smaller, the flatter. The points lie evenly on both sides, so a slope at alpha = 0 cancels, and of a parabola with
    L'' = c the rise is c / 2 times the mean of alpha². It is not divided by L(0): a model that fits twice as well would count
    as twice as sharp.

    Args:
        values: (..., P), for the mean over the last axis alone.
    """
    points, values = np.asarray(points), np.asarray(values)
    near = (0 < abs(points)) & (abs(points) <= radius + 1e-9)
    check(near.any(), "radius", f"at least the distance of two points, {points[-1] - points[-2]:.3g}", radius)
    return values[..., near].mean(-1) - values[..., len(points) // 2]


def path_of(cell: ec.Cell, results_dir=None, kind: str = "slice") -> Path:
    """The file of a cell's landscape. Raises ValueError for a cell whose loss is that of another task."""
    check(cell.source is None, "cell of a landscape", "one that searches its own loss", str(cell))
    parts = cell.dataset, cell.model, cell.method, f"{cell.budget}-{cell.protocol}"
    return store.results_dir(results_dir).joinpath("landscapes", *parts, KINDS[kind].format(cell.seed))


def read(path, source: str = "own") -> Landscape:
    """Read a file.

    Raises:
        store.RecordError: it is damaged, or it is not what belongs at this path; the message names it.
    """
    path = Path(path)
    with store.reading(path):
        data = files.read_json(path, SCHEMA)
        wrong = [name for name, kind in FIELDS.items() if not isinstance(data[name], kind)]
        check(not wrong, "the fields of a landscape", "of their types", f"others in {', '.join(wrong)}")
        check(data["kind"] in KINDS, "kind", f"one of {', '.join(KINDS)}", data["kind"])
        found = Landscape(ec.Cell(**data["cell"]), data, source)
        check(data["points"] == alphas(len(data["points"])), "points", "evenly from −1 to 1", data["points"])
        rows = len(data["directions"]) if data["kind"] == "slice" else len(data["points"])
        for name in ("loss", "error"):
            shape = found.values(name).shape
            check(shape == (rows, len(data["points"])), f"values of {name}", (rows, len(data["points"])), shape)
        kept, again = data["flatness"], flatness(found) if data["kind"] == "slice" else {}
        same = kept.keys() == again.keys() and all(
            np.isclose(math.nan if kept[name] is None else kept[name], again[name], rtol=1e-9, equal_nan=True)
            for name in again
        )
        check(same, "flatness", f"what the values give, {again}", kept)
        own = path_of(found.cell, "", data["kind"]).parts[-5:]
    if path.parts[-5:] != own:
        raise store.RecordError(
            f"{path} is of another run, {found.cell}, and belongs at {'/'.join(own)}; move it there"
        )
    return found


def flatness(landscape: Landscape) -> dict[str, float]:
    """`rise` of the task loss and of the error, as means over the directions; NaN where a point is not finite."""
    curves = {name: landscape.values(name) for name in ("loss", "error")}
    with np.errstate(invalid="ignore"):
        rises = {name: float(rise(landscape.points, values).mean()) for name, values in curves.items()}
    return {"radius": RADIUS} | {name: v if math.isfinite(v) else math.nan for name, v in rises.items()}


def compute(
    cells: Iterable[ec.Cell],
    results_dir=None,
    data_dir=None,
    device: str = "auto",
    force: bool = False,
    say: Callable[[str], None] = print,
    reference_dir=None,
) -> list[Landscape]:
    """The landscapes of cells, those that have a file excepted, which are read.

    A base model is trained in full under the loss of the cell's record (`results_dir`, else the committed records), at the
    record's learning rate and with the initial weights and batches of the record's test. A cell without a record is run.

    Args:
        force: compute landscapes anew that have a file; searches are not repeated.
        say: called with a line for each cell, and for each that has no landscape.

    Raises:
        store.RecordError: a file that is damaged, or of another loss than the record's.
        tasks.DataUnavailable: as `run_cell`.
    """
    cells, result, where = list(cells), [], (results_dir, reference_dir or REFERENCE)
    first = min((cell.seed for cell in cells), default=0)
    for cell in cells:
        run = ec.find_run(cell, where[0]) or ec.find_run(cell, where[1])
        run = run or ec.run_cell(cell, results_dir, data_dir, device, progress=say)
        kinds = ["slice"] + ["contour"] * (cell.method in CONTOURS and cell.seed == first)
        found = {} if force else {kind: _kept(run, kind, *where) for kind in kinds}
        missing = [kind for kind in kinds if not found.get(kind)]
        if missing and (made := _made(run, missing, data_dir, device)) is None:
            say(f"{cell}: {run.reason or 'the training diverged'}, so there is no landscape")
            continue
        elif missing:
            for kind in missing:
                files.write_json(path_of(cell, results_dir, kind), files.strict(made[kind]))
                found[kind] = read(path_of(cell, results_dir, kind))
            test, flat = found["slice"].data["test_error"], found["slice"].data["flatness"]["loss"]
            say(f"{cell}: {' and '.join(missing)}, test error {test:.4f}, rise of the loss {flat or math.nan:.4f}")
        result += [found[kind] for kind in kinds]
    return result


def _kept(run: store.Run, kind: str, results_dir, reference_dir) -> Landscape | None:
    """The landscape of a run's loss that has a file; one of the reader's own that is of another loss is refused."""
    digest = store.digest_of(run.data["loss"])
    for source, folder in (("own", results_dir), ("reference", reference_dir)):
        if (path := path_of(run.cell, folder, kind)).exists():
            found = read(path, source)
            if found.data["loss"] == digest:
                return found
            if source == "own":
                raise store.RecordError(
                    f"{path} is of another loss than {run.cell} has; move it away, or use force=True"
                )
    return None


def _made(run: store.Run, kinds: Iterable[str], data_dir, device: str) -> dict[str, dict] | None:
    """kind -> the contents of its file; None if there is no loss, or if the training diverges.

    The seconds of a file are those from the start of the training to the last of its points.
    """
    if run.loss is None:
        return None
    cell, config, start, threads = run.cell, ec.Config.for_cell(run.cell), time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # as the records were made
    try:
        task = ec.load_task(cell.dataset, cell.protocol, data_dir, device, config.dtype)
        model, loss, rate = ec.build_model(cell.model, task, cell.protocol), run.loss, run.data["learning_rate"]
        rest = {"start": config.test_start, "learning_rate": rate, "keep_model": True}
        tested = ec.test_loss(loss.to(find_device(device)), task, model, config, cell.seed, **rest)
        if tested.model is None or not math.isfinite(tested.error):
            return None
        facts = {"schema": SCHEMA, "cell": asdict(cell), "loss": store.digest_of(run.data["loss"])}
        facts |= {"learning_rate": rate, "test_error": tested.error, "recorded_test_error": run.test_metric}
        facts |= {"weight_norm": weight_norm(tested.model), **environment(task.device)}
        made = {}
        for kind in kinds:
            made[kind] = facts | {"kind": kind, **of_model(tested.model, task, cell.seed, kind)}
            if kind == "slice":
                made[kind]["flatness"] = flatness(Landscape(cell, made[kind]))
            made[kind]["seconds"] = round(time.perf_counter() - start, 3)
        return made
    finally:
        torch.set_num_threads(threads)


def of_model(
    model, task, seed: int, kind: str = "slice", points: int = POINTS, part: str = "test", instances: int = INSTANCES
) -> dict:
    """The part of a file that concerns a model: directions, points, and the values of loss and error.

    A "slice" has the directions 0 to 2 of the seed and values (3, P). A "contour" has the directions 0 and 1 and values
    (P, P), in which direction 0 runs along a row.
    """
    places, steps = list(range(DIRECTIONS if kind == "slice" else 2)), alphas(points)
    directions = [direction(model, seed, k) for k in places]
    if kind == "slice":
        each = [along(model, task, [d], [(a,) for a in steps], part, instances) for d in directions]
    else:
        each = [along(model, task, directions, [(a, b) for a in steps], part, instances) for b in steps]
    loss, error = (np.array(rows).tolist() for rows in zip(*each, strict=True))
    facts = {"part": part, "instances": instances, "directions": places, "points": steps, "flatness": {}}
    return facts | {"values": {"loss": loss, "error": error}}


def weight_norm(model: torch.nn.Module) -> float:
    """The Euclidean norm of the weights that a direction moves; the length of every direction is the same."""
    moving = [p.detach().double().norm().square() for p in model.parameters() if p.ndim > 1 and p.requires_grad]
    return float(sum(moving) ** 0.5)


def collect(results_dir=None, kind: str = "slice", reference_dir=None) -> tuple[list[Landscape], list[str]]:
    """(all landscapes of the committed records and of `results_dir`, messages about damaged files, which are left out)."""
    found, damaged, pattern = [], [], "landscapes/*/*/*/*/" + KINDS[kind].format("*")
    for source, folder in zip(SOURCES, (reference_dir or REFERENCE, store.results_dir(results_dir)), strict=True):
        for path in sorted(Path(folder).glob(pattern)):
            try:
                found.append(read(path, source))
            except store.RecordError as error:
                damaged.append(str(error).replace(f"{ROOT}/", ""))
    return found, damaged
