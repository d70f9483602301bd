"""Time a generation and a candidate, phase by phase, against the naive loop: `python -m benchmarks.generation DATASET MODEL`

Milliseconds are those of one candidate and one step. A step of `meta` is a meta-gradient with its Adam step, with all
candidates in lockstep; a step of `filter` is one of the rejection protocol; a step of `fitness` is one of partial training.
`generation_seconds` adds them up at the paper's counts, where a quarter of the candidates is evaluated.
"""

from evomal_core.fast.chain import Chain
from evomal_core.fast.sessions import FastSession
from evomal_core.training import choose, evaluate

from . import common
from .floor import phases, record
from .naive import Naive

STEPS = {"meta": 5, "filter": 50, "fitness": 100}  # of the package, a turn
NAIVE_STEPS = {"meta": 1, "filter": 10, "fitness": 3}


def add_up(ms: dict, config, candidates: int) -> dict[str, float]:
    """Seconds by phase of a generation in which every fourth candidate is evaluated; a single candidate is evaluated."""
    evaluated = max(1.0, candidates / 4)
    seconds = {
        "optimise": candidates * config.meta_steps * ms["meta"] / 1e3,
        "filter": candidates * config.rejection_steps * ms["filter"] / 1e3,
        "fitness": evaluated * (config.fitness_steps * ms["fitness"] + ms["evaluate"]) / 1e3,
    }
    seconds["total"] = sum(seconds.values())
    return {name: common.median([value]) for name, value in seconds.items()}


def measure(setup: common.Setup, candidates: int, repeats: int, naive: bool = True) -> dict:
    """Milliseconds of a candidate and step on both sides, the ratios of the two sides, and a whole generation."""
    losses, plain = setup.losses(candidates), setup.losses(candidates)
    package = phases(setup, losses, losses[::4], STEPS)
    config, evaluated = setup.config, len(losses[::4])
    session = FastSession(losses[0], setup.problem, config)
    package["evaluate"] = lambda: evaluate(session.model, setup.task, "validation")
    sides = {"package": (package, STEPS | {"evaluate": 1})}
    if naive:
        loop = Naive(setup.task, setup.model, config)
        usual = {
            "meta": lambda: [loop.optimise(loss, NAIVE_STEPS["meta"]) for loss in plain],
            "filter": lambda: [loop.improvement(loss, NAIVE_STEPS["filter"]) for loss in plain],
            "fitness": lambda: [loop.train(loss, NAIVE_STEPS["fitness"]) for loss in plain[::4]],
            "evaluate": loop.evaluate,
        }
        sides["naive"] = (usual, NAIVE_STEPS | {"evaluate": 1})
    ms: dict = {side: {} for side in sides}
    result: dict = {}
    for phase, count in {"meta": candidates, "filter": candidates, "fitness": evaluated, "evaluate": 1}.items():
        seconds = common.turns({side: functions[phase] for side, (functions, _) in sides.items()}, repeats)
        each = {side: [s / count / sides[side][1][phase] * 1e3 for s in seconds[side]] for side in seconds}
        for side in sides:
            ms[side][phase] = common.median(each[side])
        if naive:
            result.setdefault("ratio", {})[phase] = common.ratio(each["naive"], each["package"])
    result = {**ms["package"], **({"naive": ms["naive"]} if naive else {}), **result}
    for name, n in (("generation_seconds", candidates), ("candidate_seconds", 1)):
        result[name] = {side: add_up(ms[side], config, n) for side in sides}
        if naive:
            result[name]["ratio"] = common.median([result[name]["naive"]["total"] / result[name]["package"]["total"]])
    if Chain.of(setup.problem.model):
        products = record(package["fitness"])
        seconds = common.turns({"step": package["fitness"], "products": products.replay(least=0.1)}, repeats)
        result["fitness_share_of_products"] = common.ratio(seconds["products"], seconds["step"])
    return result


def main(arguments=None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--candidates", type=int, default=25)
    parser.add_argument("--no-naive", action="store_true", help="measure the package alone")
    args = parser.parse_args(arguments)
    common.start(args)
    setup = common.setup(args.dataset, args.model, args.device, args.synthetic)
    result = {
        "benchmark": "generation",
        **{"dataset": args.dataset, "model": args.model, "data": setup.data, "candidates": args.candidates},
        "engine": choose(setup.config.engine, setup.model, setup.config),
        **measure(setup, args.candidates, args.repeats, not args.no_naive),
        "losses": [str(loss) for loss in setup.losses(args.candidates)],
    }
    common.report(result, args)


if __name__ == "__main__":
    main()
