"""Loss expressions as trees over DEAP's `gp` (sections III-B2 and III-B3): grow, vary, correct, print, parse.

A tree is a `deap.gp.PrimitiveTree`, a list of nodes in prefix order; `str(tree)` prints it, for example
`square(sub(y, f))`. Every function that draws takes a seed and leaves DEAP's global generators as they were.
"""

import random
import re

from deap import gp

from .. import streams
from .primitives import ARITY, TERMINALS

Tree = gp.PrimitiveTree
MAX_PARSED_NODES, MAX_PARSED_HEIGHT = 10_000, 90  # DEAP's own limit of height; a search stays at 10

PRIMITIVE_SET = gp.PrimitiveSet("loss", 2)
PRIMITIVE_SET.renameArguments(ARG0="y", ARG1="f")
for _name, _arity in ARITY.items():
    PRIMITIVE_SET.addPrimitive(lambda *x: x, _arity, name=_name)  # never called: trees are compiled, not evaluated
for _name in TERMINALS[2:]:
    PRIMITIVE_SET.addTerminal(_name, name=_name)


def node_name(node) -> str:
    """Name of a node: an operator of Table I, or one of `y`, `f`, `1`, `-1`."""
    return node.name if isinstance(node, gp.Primitive) else node.format()


_NODES = {node_name(node): node for node in PRIMITIVE_SET.mapping.values()}
_CORRECTIONS = tuple(_NODES[name] for name in ("add", "sub", "mul", "aq"))  # [R]


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
    nodes: list = []

    def take(expected, description: str) -> str:
        """The next token, which must be one of those expected."""
        position, token = next(tokens)
        if token not in expected:
            raise ValueError(f"unexpected {token[:50]!r} at token {position} of {text[:200]!r}; expected {description}")
        return token

    def read(height: int) -> None:
        """Read one subtree into `nodes`: a name and, of an operator, its arguments in brackets."""
        node = _NODES[take(_NODES, f"one of the known names: {', '.join([*ARITY, *TERMINALS])}")]
        nodes.append(node)
        if len(nodes) > MAX_PARSED_NODES or height > MAX_PARSED_HEIGHT:
            raise ValueError(f"an expression has at most {MAX_PARSED_NODES} nodes and height {MAX_PARSED_HEIGHT}")
        for mark in ("", "()", "(,)")[node.arity]:  # an argument follows each but the last
            take([mark], f"{node.arity} argument(s) of {node.name} in brackets")
            if mark != ")":
                read(height + 1)

    read(height=0)
    take(["end of text"], "nothing behind the expression")
    return Tree(nodes)


def grow(seed: int, heights: tuple[int, int] = (2, 4), n: int = 1) -> list[Tree]:
    """`n` random trees by ramped half-and-half, corrected to hold `y` and `f`."""
    with streams.global_generators(seed):
        return [correct(Tree(gp.genHalfAndHalf(PRIMITIVE_SET, *heights))) for _ in range(n)]


def cross(first: Tree, second: Tree) -> Tree:
    """One-point crossover; the first child is kept [R]. Draws from the global generators."""
    return gp.cxOnePoint(Tree(first), Tree(second))[0]


def mutate(tree: Tree, heights: tuple[int, int] = (0, 2)) -> Tree:
    """Uniform mutation: a random subtree is replaced with a new one. Draws from the global generators."""

    def subtree(pset, type_):
        return gp.genHalfAndHalf(pset, *heights, type_=type_)

    return gp.mutUniform(Tree(tree), subtree, PRIMITIVE_SET)[0]


def correct(tree: Tree) -> Tree:
    """Constraint enforcement (section III-B3): a tree that lacks `y` or `f` has a random terminal replaced with a random
    binary node whose arguments are `y` and `f` in random order. Draws from the global generators."""
    if {"y", "f"} <= {node_name(node) for node in tree}:
        return tree
    position = random.choice([i for i, node in enumerate(tree) if node.arity == 0])
    arguments = [_NODES["y"], _NODES["f"]]
    random.shuffle(arguments)
    return Tree([*tree[:position], random.choice(_CORRECTIONS), *arguments, *tree[position + 1 :]])
