"""Loss expressions as trees over DEAP's `gp` (sections III-B2 and III-B3): grow, vary, correct, print, parse.

A tree is a `deap.gp.PrimitiveTree`, a list of nodes in prefix order; `str(tree)` prints it, for example
`square(sub(y, f))`. Every function that draws takes a seed and leaves DEAP's global generators as they were.
"""

import random
import re
from functools import lru_cache

from deap import gp

from .. import streams
from ..checks import check, check_choice
from ..config import MAX_HEIGHT
from .primitives import PRIMITIVES, TABLE_I, TERMINALS

Tree = gp.PrimitiveTree
CORRECTIONS = ("add", "sub", "mul", "aq")  # the binary node that constraint enforcement puts in [R]
MAX_NODES = 10_000  # of a tree that is read or made


@lru_cache
def primitive_set(operators: tuple[str, ...]) -> gp.PrimitiveSet:
    """DEAP's set of the operators of these names and the terminals."""
    result = gp.PrimitiveSet("loss", 2)
    result.renameArguments(ARG0="y", ARG1="f")
    for name in operators:
        result.addPrimitive(lambda *x: x, PRIMITIVES["abs"][name].arity, name=name)  # trees are compiled, not evaluated
    for name in TERMINALS[2:]:
        result.addTerminal(name, name=name)
    return result


def check_operators(names: tuple[str, ...]) -> tuple[str, ...]:
    """The operators that trees are made of; none named: those of Table I.

    Raises:
        ValueError: an unknown name, or none that is binary, which constraint enforcement needs.
    """
    for name in names:
        check_choice("operator", name, PRIMITIVES["abs"])
    names = tuple(names) or TABLE_I
    check(
        any(PRIMITIVES["abs"][name].arity == 2 for name in names), "operators", "at least one of two arguments", names
    )
    return names


def node_name(node) -> str:
    """Name of a node: an operator of Table I, or one of `y`, `f`, `1`, `-1`."""
    return node.name if isinstance(node, gp.Primitive) else node.format()


def nodes() -> dict[str, gp.Primitive | gp.Terminal]:
    """The node of each name that there is."""
    return _nodes(tuple(PRIMITIVES["abs"]))


@lru_cache
def _nodes(operators: tuple[str, ...]) -> dict:
    return {node_name(node): node for node in primitive_set(operators).mapping.values()}


def children(tree: Tree) -> list[tuple[int, ...]]:
    """Positions of each node's children; a child stands behind its parent (prefix order)."""
    result: list[tuple[int, ...]] = [()] * len(tree)
    open_subtrees: list[int] = []
    for i in range(len(tree) - 1, -1, -1):
        arity = tree[i].arity
        result[i] = tuple(open_subtrees.pop() for _ in range(arity))
        open_subtrees.append(i)
    return result


def parse(text: str) -> Tree:
    """Read a tree in prefix form, as `str` prints it. Nothing is evaluated.

    Raises:
        ValueError: unknown name, wrong number of arguments, or a tree that is too large.
    """
    if not isinstance(text, str):
        raise ValueError(f"an expression must be a string such as 'square(sub(y, f))', got {type(text).__name__}")
    tokens = iter(enumerate([*re.findall(r"-?\w+|\S", text), "end of text"], start=1))
    found: list = []
    known = nodes()

    def take(expected, description: str) -> str:
        """The next token, which must be one of those expected."""
        position, token = next(tokens)
        if token not in expected:
            raise ValueError(f"unexpected {token[:50]!r} at token {position} of {text[:200]!r}; expected {description}")
        return token

    def read(height: int) -> None:
        """Read one subtree into `found`: a name, and the arguments of an operator in brackets."""
        node = known[take(known, f"one of the known names: {', '.join([*PRIMITIVES['abs'], *TERMINALS])}")]
        found.append(node)
        if len(found) > MAX_NODES or height > MAX_HEIGHT:
            raise ValueError(f"an expression has at most {MAX_NODES} nodes and height {MAX_HEIGHT}")
        for mark in ("", "()", "(,)")[node.arity]:  # an argument follows each but the last
            take([mark], f"{node.arity} argument(s) of {node.name} in brackets")
            if mark != ")":
                read(height + 1)

    read(height=0)
    take(["end of text"], "nothing behind the expression")
    return Tree(found)


def grow(seed: int, heights: tuple[int, int] = (2, 4), n: int = 1, operators: tuple[str, ...] = ()) -> list[Tree]:
    """`n` random trees by ramped half-and-half, corrected to hold `y` and `f`.

    Args:
        operators: that trees are made of; none named: those of Table I.
    """
    pset = primitive_set(check_operators(operators))
    with streams.global_generators(seed):
        return [correct(Tree(gp.genHalfAndHalf(pset, *heights)), operators) for _ in range(n)]


def cross(first: Tree, second: Tree) -> Tree:
    """One-point crossover; the first child is kept [R]. Draws from the global generators."""
    return gp.cxOnePoint(Tree(first), Tree(second))[0]


def mutate(tree: Tree, heights: tuple[int, int] = (0, 2), operators: tuple[str, ...] = ()) -> Tree:
    """Uniform mutation: a random subtree is replaced with a new one. Draws from the global generators."""

    def subtree(pset, type_):
        return gp.genHalfAndHalf(pset, *heights, type_=type_)

    return gp.mutUniform(Tree(tree), subtree, primitive_set(check_operators(operators)))[0]


def correct(tree: Tree, operators: tuple[str, ...] = ()) -> Tree:
    """Constraint enforcement (section III-B3): a tree that lacks `y` or `f` has a random terminal replaced with a random
    binary node whose arguments are `y` and `f` in random order. Draws from the global generators."""
    if {"y", "f"} <= {node_name(node) for node in tree}:
        return tree
    names, known = check_operators(operators), nodes()
    binary = [name for name in names if known[name].arity == 2]
    binary = [name for name in CORRECTIONS if name in binary] or binary
    position = random.choice([i for i, node in enumerate(tree) if node.arity == 0])
    arguments = [known["y"], known["f"]]
    random.shuffle(arguments)
    return Tree([*tree[:position], known[random.choice(binary)], *arguments, *tree[position + 1 :]])
