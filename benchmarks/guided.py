"""Coverage-guided fuzzing (atheris): inputs are bred that reach new branches of the package's readers.

    python -m benchmarks.guided [--inputs 100000] [--seed 1] [--kinds expressions losses …]

It takes atheris (extra `bench`). Each kind of input has a process of its own. An input must be refused with ValueError or
RecordError, or be read; any other exception ends the program, and atheris prints the input.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
KINDS = ("expressions", "losses", "records", "overrides")
SEEDS = {
    "expressions": lambda: [
        b"add(mul(y, sqrt(f)), min(tanh(sub(y, -1)), aq(1, log(f))))",
        b"sign(max(abs(f), square(y)))",
    ],
    "losses": lambda: [path.read_bytes() for path in sorted(FIXTURES.glob("losses/*.json"))],
    "records": lambda: [path.read_bytes() for path in sorted(FIXTURES.rglob("record.json"))],
    "overrides": lambda: [b"smoke+population=3+test_milestones=3,5+dtype=float64", b"paper+operators=add,mul"],
}


def fuzz(kind: str, inputs: int, seed: int, corpus: Path) -> None:
    """Feed so many inputs to one reader; the process ends with it."""
    import atheris

    with atheris.instrument_imports(include=["evomal_core"]):
        import evomal_core as ec
        from evomal_core.experiments import store
        from evomal_core.losses import expression

    path = corpus.parent / "input"

    def in_file(content: bytes) -> Path:
        path.write_bytes(content)
        return path

    readers = {
        "expressions": lambda content: expression.parse(content.decode(errors="replace")),
        "losses": lambda content: ec.load_loss(in_file(content)),
        "records": lambda content: store.read_record(in_file(content)),
        "overrides": lambda content: ec.Cell("diabetes", "mlp", "glo", 0, content.decode(errors="replace")),
    }

    def one(content: bytes) -> None:
        try:
            readers[kind](content)
        except (ValueError, ec.RecordError):
            pass

    options = [f"-runs={inputs}", f"-seed={seed}", "-max_len=65536", "-rss_limit_mb=4096", "-timeout=20"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--corpus", type=Path, help="used by the benchmark itself: the process of one kind")
    given = parser.parse_args(arguments)
    if given.corpus:
        fuzz(*given.kinds, given.inputs, given.seed, given.corpus)
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder, "corpus")
            corpus.mkdir()
            for k, content in enumerate(SEEDS[kind]()):
                (corpus / str(k)).write_bytes(content)
            command = [sys.executable, "-m", "benchmarks.guided", "--kinds", kind, "--inputs", str(given.inputs)]
            command += ["--seed", str(given.seed), "--corpus", str(corpus)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{kind}: {done.stderr[-3000:]}")
            print(f"{kind}: {done.stderr.strip().splitlines()[-1]}", flush=True)


if __name__ == "__main__":
    main()
