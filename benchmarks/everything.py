"""Run every benchmark of README.md, one after another: `python -m benchmarks.everything OUT.jsonl [--clock cpu]`

Each benchmark appends one JSON line to the file, and its numbers are printed. Other options go to each benchmark.
"""

import argparse
import subprocess
import sys
import time

# The naive loop and ResNet-18 are slow, so they get fewer candidates and a smaller batch.
COMMANDS = (
    "generation diabetes mlp --candidates 9",
    "generation mnist mlp --candidates 9",
    "generation mnist logistic",
    "generation mnist lenet5 --candidates 9",
    "meta_gradient diabetes mlp --lockstep 25",
    "meta_gradient mnist mlp --lockstep 25",
    "meta_gradient mnist logistic --lockstep 25",
    "meta_gradient mnist lenet5 --lockstep 25",
    "meta_gradient cifar10 allcnnc --synthetic --batch 32",
    "meta_gradient cifar10 resnet18 --synthetic --batch 32",
    "meta_gradient cifar10 resnet18 --synthetic --only memory --batch 32 --steps 1 5 20 --ways higher jvp",
    "floor diabetes mlp --candidates 9",
    "floor mnist mlp --candidates 9",
    "floor mnist logistic",
    "floor mnist lenet5 --candidates 9",
    "scaling population width batch run --clock cpu",
    "scaling cells --quick",
)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="file that gets one JSON line for each benchmark")
    args, options = parser.parse_known_args(arguments)
    for command in COMMANDS:
        begin = time.perf_counter()
        name, *rest = command.split()
        line = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *rest, *options, "--json"]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"{command} ended with {done.returncode}; its message stands above")
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(done.stdout)
        print(f"{command}  ({time.perf_counter() - begin:.0f} s)\n{done.stdout}", flush=True)


if __name__ == "__main__":
    main()
