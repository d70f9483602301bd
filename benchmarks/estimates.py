"""Is `ec.estimate` good to a factor of 1.5? It is held against runs: `python -m benchmarks.estimates [DATASET/MODEL …]`

Each cell is estimated, run, and estimated again in one process, so that both sides meet the same load. A ratio is the mean
of the two estimates divided by the seconds of the record. What an estimate cannot know is which share of a search's
candidates is evaluated, and whether a loss diverges early; the table names both. `--repeats` is the number of seeds.
"""

import math
import tempfile

import evomal_core as ec

from . import common

# data set/model -> the budget at which it is run
ROWS = {
    "digits/logistic": "quick",
    "mnist/logistic": "quick",
    "diabetes/mlp": "quick",
    "mnist/lenet5": "quick",
    "cifar10/allcnnc": "smoke",
}
FACTOR = 1.5
SHORTEST = 1.0  # seconds below which a phase says nothing about a factor


def held(cell: ec.Cell, args) -> dict:
    """Seconds expected and spent of a cell, and their ratio, for its search and its test."""
    with tempfile.TemporaryDirectory() as folder:
        before = ec.estimate([cell], device=args.device)[0]
        run = ec.run_cell(cell, folder, device=args.device, threads=args.threads)
        after = ec.estimate([cell], device=args.device)[0]
    row = {"cell": f"{cell.dataset}/{cell.model}/{cell.method} seed {cell.seed}, {cell.budget}", "status": run.status}
    if len(history := run.history):
        tried = history[["symbolic", "rejected", "equivalent", "evaluated"]].sum()
        row["evaluated"] = f"{tried['evaluated']} of {tried.sum()}"
    for phase in ("search", "test"):
        guesses = [getattr(each, phase) * 3600 for each in (before, after)]
        expected, spent = sum(guesses) / 2, run.seconds.get(phase, 0.0)
        row |= {f"{phase} expected": common.median([expected]), f"{phase} spent": common.median([spent])}
        if spent >= SHORTEST and (phase == "search" or run.status == "complete"):
            row[f"{phase} ratio"] = common.median([expected / spent])
    return row


def main(arguments=None) -> None:
    parser = common.parser(__doc__, problem=False)
    parser.add_argument("rows", nargs="*", help=f"data set and model; default: {', '.join(ROWS)}")
    parser.add_argument("--methods", nargs="+", default=["tuned", "ml3", "taylorglo", "gp-lfl", "evomal"])
    parser.add_argument("--budget", help="default: quick, for cifar10 smoke")
    parser.set_defaults(repeats=1)
    args = parser.parse_args(arguments)
    common.start(args)
    rows = []
    for name in args.rows or ROWS:
        dataset, model = name.split("/")
        budget = args.budget or ROWS.get(name, "quick")
        cells = [ec.Cell(dataset, model, m, seed, budget) for m in args.methods for seed in range(args.repeats)]
        rows += [held(cell, args) for cell in cells]
    found = [row[key] for row in rows for key in ("search ratio", "test ratio") if key in row]
    within = sum(1 / FACTOR <= ratio <= FACTOR for ratio in found)
    result = {
        "benchmark": "estimates",
        "unit": "s",
        "rows": rows,
        f"within a factor of {FACTOR}": f"{within} of {len(found)}",
    }
    if found:
        middle = math.exp(sum(map(math.log, found)) / len(found))
        result |= {"geometric mean": common.median([middle]), "least": min(found), "largest": max(found)}
    common.report(result, args)


if __name__ == "__main__":
    main()
