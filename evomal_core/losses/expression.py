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
_NODES = {
    node.name if isinstance(node, gp.Primitive) else node.format(): node for node in PRIMITIVE_SET.mapping.values()
}
_CORRECTIONS = tuple(_NODES[name] for name in ("add", "sub", "mul", "aq"))  # [R]


def node_name(node) -> str:
    """Name of a node: an operator of Table I, or one of `y`, `f`, `1`, `-1`."""
    return node.name if isinstance(node, gp.Primitive) else node.format()


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
    tokens = re.findall(r"-?\w+|\S", text)
    nodes, pending, depth = [], [], 0  # pending: arguments still to come of each open operator
    for position, token in enumerate(tokens):
        expects_argument = position == 0 or tokens[position - 1] in ("(", ",")
        if token in _NODES and expects_argument:
            node = _NODES[token]
            nodes.append(node)
            if node.arity and tokens[position + 1 : position + 2] != ["("]:
                raise ValueError(f"operator {token!r} needs {node.arity} argument(s) in brackets in {text[:200]!r}")
        elif token == "(" and nodes and position and nodes[-1].arity and tokens[position - 1] == nodes[-1].name:
            pending.append(nodes[-1].arity - 1)
        elif token == "," and pending and pending[-1] > 0 and not expects_argument:
            pending[-1] -= 1
        elif token == ")" and pending and pending[-1] == 0 and not expects_argument:
            pending.pop()
        else:
            known = ", ".join([*ARITY, *TERMINALS])
            raise ValueError(
                f"unexpected {token[:50]!r} at token {position + 1} of {text[:200]!r}; known names: {known}"
            )
        depth = max(depth, len(pending))
        if len(nodes) > MAX_PARSED_NODES or depth > MAX_PARSED_HEIGHT:
            raise ValueError(f"an expression has at most {MAX_PARSED_NODES} nodes and height {MAX_PARSED_HEIGHT}")
        if not pending and position + 1 < len(tokens) and token not in ARITY:
            raise ValueError(f"unexpected text behind the expression: {tokens[position + 1][:50]!r} in {text[:200]!r}")
    if not nodes or pending:
        raise ValueError(f"the expression ends too early: {text[:200]!r}")
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
    return gp.mutUniform(Tree(tree), lambda pset, type_: gp.genHalfAndHalf(pset, *heights, type_=type_), PRIMITIVE_SET)[
        0
    ]


def correct(tree: Tree) -> Tree:
    """Constraint enforcement (section III-B3): a tree that lacks `y` or `f` has a random terminal replaced with a random
    binary node whose arguments are `y` and `f` in random order. Draws from the global generators."""
    if {"y", "f"} <= {node_name(node) for node in tree}:
        return tree
    position = random.choice([i for i, node in enumerate(tree) if node.arity == 0])
    arguments = [_NODES["y"], _NODES["f"]]
    random.shuffle(arguments)
    return Tree([*tree[:position], random.choice(_CORRECTIONS), *arguments, *tree[position + 1 :]])
