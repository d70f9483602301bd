"""Every benchmark times these losses, 25 random trees of 5 to 30 nodes that were fixed once.

They were grown by half-and-half (section III-B2), and chosen so that their sizes spread as in a search (mean 12.7 nodes).
All of them hold `y` and `f`, and stay finite through loss optimisation and partial training at the paper's counts on
diabetes/mlp and mnist/logistic.
"""

TREES = (
    "abs(tanh(mul(y, f)))",
    "sqrt(log(mul(y, f)))",
    "tanh(square(tanh(sub(f, y))))",
    "sqrt(abs(sqrt(sub(y, f))))",
    "sqrt(abs(add(add(f, y), -1)))",
    "sqrt(abs(tanh(tanh(mul(y, f)))))",
    "square(min(abs(aq(f, y)), abs(1)))",
    "aq(sign(-1), aq(y, mul(f, y)))",
    "min(sqrt(square(-1)), abs(abs(aq(f, y))))",
    "add(sqrt(log(sub(y, f))), sign(square(f)))",
    "aq(max(max(1, y), abs(y)), tanh(tanh(f)))",
    "mul(abs(aq(abs(f), max(f, f))), log(y))",
    "aq(square(min(sub(f, y), 1)), tanh(tanh(sqrt(y))))",
    "sqrt(sub(min(mul(y, f), sqrt(aq(-1, 1))), sqrt(-1)))",
    "aq(log(sqrt(y)), add(add(sub(y, f), -1), square(-1)))",
    "square(sub(square(f), sub(sub(sign(f), aq(-1, y)), sqrt(-1))))",
    "aq(sqrt(log(abs(f))), add(max(sqrt(y), abs(f)), abs(sqrt(-1))))",
    "sub(mul(square(max(add(f, y), -1)), sqrt(square(y))), log(square(log(y))))",
    "sqrt(abs(mul(sub(aq(1, -1), square(f)), add(max(f, 1), mul(y, -1)))))",
    "sqrt(add(mul(mul(mul(y, f), -1), sub(f, -1)), mul(tanh(1), max(f, -1))))",
    "aq(sqrt(mul(min(-1, 1), mul(y, -1))), sqrt(sub(sub(y, y), sqrt(sub(f, y)))))",
    "mul(abs(tanh(sqrt(y))), mul(aq(sign(1), tanh(square(1))), max(-1, sub(sign(y), add(-1, f)))))",
    "abs(sqrt(aq(abs(aq(square(f), log(f))), mul(mul(aq(-1, y), mul(-1, y)), mul(square(-1), add(f, f))))))",
    "mul(tanh(add(min(f, log(y)), min(add(y, 1), mul(f, f)))), "
    "min(sub(log(-1), abs(square(1))), tanh(abs(sub(y, y)))))",
    "aq(sqrt(abs(mul(tanh(f), mul(y, f)))), mul(mul(add(tanh(y), tanh(1)), "
    "sqrt(max(f, 1))), mul(log(sign(1)), aq(add(1, f), sign(1)))))",
)
