"""How far is each phase from its arithmetic? This prints achieved / floor for each phase.

The floor is the time of the phase's matrix products and convolutions alone: every such call is written down as the phase
runs, with shapes and strides, and each distinct one is run again by itself in the same process. Elementwise work (losses,
activations, optimiser) counts as overhead. `python -m benchmarks.floor DATASET MODEL`
"""

import dataclasses
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from evomal_core.search import filters
from evomal_core.training import Trial, train, unroll

from . import common


@dataclasses.dataclass(frozen=True)
class Shape:
    """A tensor's layout, without its contents."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def make(self) -> torch.Tensor:
        extent = 1 + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))  # strides may be 0
        return torch.randn(extent, dtype=self.dtype, device=self.device).as_strided(self.size, self.stride)


class Products(TorchDispatchMode):
    """It writes down the matrix products and convolutions that run inside it; `calls[(operator, arguments)]` counts them."""

    def __init__(self):
        super().__init__()
        self.calls: Counter = Counter()
        self.flops: dict = {}  # of one call

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            arguments = tree_map_only(
                torch.Tensor, lambda t: Shape(t.shape, t.stride(), t.dtype, t.device), (args, kwargs)
            )
            key = func, repr(arguments)
            self.calls[key] += 1
            self.flops[key] = flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
            self.__dict__.setdefault("arguments", {})[key] = arguments
        return out

    def total(self, least: float = 0.0) -> int:
        """Floating-point operations of the calls that have at least the share `least` of the largest call's.

        A multiplication with its addition counts as two.
        """
        return sum(self.flops[key] * self.calls[key] for key in self.large(least))

    def large(self, least: float) -> list:
        return [key for key in self.calls if self.flops[key] >= least * max(self.flops.values())]

    def replay(self, least: float = 0.0):
        """A function that runs the same calls on other numbers, and nothing else."""
        program = []
        for key in self.large(least):
            args, kwargs = tree_map_only(Shape, Shape.make, self.arguments[key])
            program.append((key[0], args, kwargs, self.calls[key]))

        @torch.no_grad()
        def run():
            for func, args, kwargs, count in program:
                for _ in range(count):
                    func(*args, **kwargs)

        return run


def phases(setup: common.Setup, losses, evaluated, steps: dict[str, int]) -> dict:
    """phase -> function that runs `steps[phase]` steps of it, for all losses, or in the fitness phase for `evaluated`."""
    config = dataclasses.replace(setup.config, meta_steps=steps["meta"], rejection_steps=steps["filter"])
    problem, probe = setup.problem, filters.Probe.of(setup.problem, config, 0)
    training = Trial("fitness", steps["fitness"], parts=())  # without the evaluation at its end
    return {
        "meta": lambda: unroll.optimise_losses(losses, [problem], config, 0),
        "filter": lambda: filters.improvement(losses, probe, config),
        "fitness": lambda: train(evaluated, problem, config, 0, training),
    }


def record(phase) -> Products:
    with Products() as products:
        phase()
    return products


def main(arguments=None) -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--candidates", type=int, default=25)
    args = parser.parse_args(arguments)
    common.start(args)
    setup = common.setup(args.dataset, args.model, args.device, args.synthetic)
    losses = setup.losses(args.candidates)
    evaluated = losses[::4]
    steps = {"meta": 2, "filter": 20, "fitness": 10}
    rows = []
    for name, phase in phases(setup, losses, evaluated, steps).items():
        products = record(phase)
        each = steps[name] * len(evaluated if name == "fitness" else losses)
        row = {"phase": name, "mflop": common.median([products.total() / each / 1e6])}
        if products.calls:
            seconds = common.turns({"phase": phase, "floor": products.replay()}, args.repeats)
            row |= {f"{side}_ms": common.median(s / each * 1e3 for s in seconds[side]) for side in seconds}
            row["gflop_per_second_alone"] = common.median(products.total() / s / 1e9 for s in seconds["floor"])
            row["achieved_over_floor"] = common.ratio(seconds["floor"], seconds["phase"])
        else:
            seconds = common.turns({"phase": phase}, args.repeats)
            row["phase_ms"] = common.median(s / each * 1e3 for s in seconds["phase"])
        rows.append(row)
    result = {"dataset": args.dataset, "model": args.model, "data": setup.data, "candidates": args.candidates}
    common.report({"benchmark": "floor", **result, "rows": rows}, args)


if __name__ == "__main__":
    main()
