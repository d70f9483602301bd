"""Settings: the paper's and the released code's numbers, protocols and budgets by name, and what is refused."""

import dataclasses
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import evomal_core as ec
from evomal_core import BUDGETS, Cell, Config, Protocol, streams
from evomal_core.checks import check_choice
from evomal_core.config import SWITCHES, as_switch, parse_override
from evomal_core.registry import DATASETS, MODELS


def config(dataset="diabetes", budget="paper", protocol="paper") -> Config:
    return Config.for_cell(SimpleNamespace(dataset=dataset, budget=budget, protocol=protocol))


# Numbers


def test_defaults_are_the_paper_s():
    c = config()
    assert c == Config()
    want = dict(
        population=25,
        generations=50,
        crossover_rate=0.7,
        mutation_rate=0.25,
        elitism_rate=0.05,
        tournament_size=4,
        initial_height=(2, 4),
        max_height=10,
        meta_steps=250,
        inner_steps=1,
        meta_learning_rate=1e-3,
        weight_std=1e-3,
        rejection_steps=1000,
        rejection_batch=100,
        equivalence_digits=2,
        fitness_steps=500,
        test_steps=10_000,
        batch_size=128,
        base_learning_rate=0.01,
        base_momentum=0.9,
        base_nesterov=True,
        base_weight_decay=5e-4,
        non_negative=False,
        protection="abs",
        elitism=True,
        gradient_equivalence=True,
        double_tournament=False,
        archive_rejected=True,
        stale_best=False,
        score_non_finite=False,
    )
    assert {name: getattr(c, name) for name in want} == want


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        ("smoke", (4, 2, 3, 5, 5, 20)),
        ("quick", (8, 8, 80, 100, 100, 2000)),
        ("paper", (25, 50, 250, 500, 1000, 10_000)),
    ],
)
def test_budgets(budget, counts):
    c = config(budget=budget)
    names = ("population", "generations", "meta_steps", "fitness_steps", "rejection_steps", "test_steps")
    assert tuple(getattr(c, n) for n in names) == counts
    assert set(BUDGETS[budget]) == set(names)


@pytest.mark.parametrize("dataset", DATASETS)
def test_base_training_of_each_data_set(dataset):
    c, quick = config(dataset), config(dataset, "quick")
    small = dataset in ("mnist", "digits")
    assert (c.base_momentum, c.base_nesterov, c.base_weight_decay) == ((0, False, 0) if small else (0.9, True, 5e-4))
    assert (c.base_learning_rate, c.batch_size) == (0.01, 128)
    assert c.rejection_steps == (100 if small else 1000)
    large = dataset in ("cifar10", "cifar100", "svhn")
    assert c.test_steps == (150_000 if large else 10_000)
    assert c.test_milestones == ((100_000, 135_000) if large else ())
    assert quick.test_steps == 2000
    assert quick.test_milestones == ()
    assert quick.base_momentum == c.base_momentum


def test_released_protocol():
    c, paper = config(protocol="released"), config()
    changed = {f.name for f in dataclasses.fields(c) if getattr(c, f.name) != getattr(paper, f.name)}
    want = dict(
        elitism=False,
        gradient_equivalence=False,
        double_tournament=True,
        archive_rejected=False,
        stale_best=True,
        protection="clamp",
        score_non_finite=True,
        taylor_roles="exchanged",
        taylor_last_term="t0",
        test_start="search",
    )
    assert {name: getattr(c, name) for name in changed} == want
    assert Protocol.parse("released")["split"] == "overlapping"
    assert Protocol.parse("paper")["split"] == "honest"


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_alone(switch):
    for value in SWITCHES[switch].values:
        for base in ("paper", "released"):
            protocol = Protocol.parse(f"{base}+{switch}={value}")
            assert protocol[switch] == value
            plain = Protocol.parse(base)
            assert (str(protocol) == base) == (plain[switch] == value)
            assert all(protocol[s] == plain[s] for s in SWITCHES if s != switch)
            a, b = config(protocol=str(protocol)), config(protocol=base)
            different = [f.name for f in dataclasses.fields(a) if getattr(a, f.name) != getattr(b, f.name)]
            assert len(different) == (str(protocol) != base and SWITCHES[switch].field is not None)


# Protocol strings


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("paper", "paper"),
        ("released", "released"),
        ("paper+elitism=on", "paper"),
        ("paper+elitism=off", "paper+elitism=off"),
        ("released+elitism=off", "released"),
        ("paper+tournament=double+archive=evaluated", "paper+archive=evaluated+tournament=double"),
        ("paper+elitism=off+elitism=on", "paper"),
        ("released+non_negative=on+split=honest", "released+non_negative=on+split=honest"),
        ("paper+non_negative=off", "paper"),
    ],
)
def test_equal_protocols_have_equal_names(text, canonical):
    protocol = Protocol.parse(text)
    assert str(protocol) == canonical
    assert Protocol.parse(str(protocol)) == protocol
    assert Protocol.parse(protocol) is protocol
    assert hash(protocol) == hash(Protocol.parse(canonical))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("papper", "Did you mean 'paper'"),
        ("Paper", "Did you mean 'paper'"),
        ("", "protocol must be one of paper, released"),
        ("paper+elitsm=off", "Did you mean 'elitism'"),
        ("paper+elitism=of", "Did you mean 'off'"),
        ("paper+elitism", "elitism must be one of on, off"),
        ("paper+", "protocol switch must be one of"),
        ("paper+elitism=off,archive=all", "elitism must be one of"),
        ("elitism=off", "protocol must be one of"),
        (None, "protocol must be one of"),
    ],
)
def test_protocol_errors(text, message):
    with pytest.raises(ValueError, match=message):
        Protocol.parse(text)


# Validation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(population=0), "population"),
        (dict(population=-1), "population"),
        (dict(population=2.0), "population must be int"),
        (dict(population=True), "population must be int"),
        (dict(population="8"), "population must be int"),
        (dict(generations=0), "generations"),
        (dict(inner_steps=0), "inner_steps"),
        (dict(test_steps=0), "test_steps"),
        (dict(batch_size=0), "batch_size"),
        (dict(meta_steps=-1), "meta_steps"),
        (dict(rejection_steps=-1), "rejection_steps"),
        (dict(tournament_size=0), "tournament_size"),
        (dict(base_learning_rate=math.nan), "base_learning_rate"),
        (dict(base_learning_rate=math.inf), "base_learning_rate"),
        (dict(base_learning_rate=-0.1), "base_learning_rate"),
        (dict(base_learning_rate="0.1"), "base_learning_rate"),
        (dict(base_learning_rate=True), "base_learning_rate"),
        (dict(elitism=1), "elitism must be bool"),
        (dict(elitism_rate=1.5), "elitism_rate must be at most 1, got 1.5"),
        (dict(taylor_roles="predicton"), "Did you mean 'prediction'"),
        (dict(taylor_last_term="t2"), "taylor_last_term must be one of t1, t0"),
        (dict(test_milestones=("a",)), "test_milestones must be whole numbers of steps"),
        (dict(test_milestones=(0,)), "test_milestones"),
        (dict(initial_height=(5, 9), max_height=8), "initial_height must be a lowest and a highest height, at most 8"),
        (dict(meta_steps=-2), "meta_steps must be at least 0, got -2"),
        (dict(elitism="on"), "elitism must be bool"),
        (dict(initial_height=3), "initial_height must be tuple"),
        (dict(initial_height=(4, 2)), "initial_height"),
        (dict(initial_height=(2,)), "initial_height"),
        (dict(mutation_height=(-1, 2)), "mutation_height"),
        (dict(dtype="float16"), "dtype"),
        (dict(dtype="flaot32"), "Did you mean 'float32'"),
        (dict(protection="clip"), "protection"),
        (dict(base_momentum=0.0), "base_nesterov"),
        (dict(crossover_rate=0.0, mutation_rate=0.0), "crossover_rate"),
    ],
    ids=str,
)
def test_config_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **changes)


def test_config_takes_what_means_the_same():
    c = Config(base_learning_rate=1, test_milestones=[3, 4], meta_steps=0, rejection_steps=0)
    assert type(c.base_learning_rate) is float
    assert c.test_milestones == (3, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.population = 3
    assert hash(c) == hash(dataclasses.replace(c))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("generations", "10", 10),
        ("generations", 10, 10),
        ("base_learning_rate", "1e-3", 1e-3),
        ("base_learning_rate", "1", 1.0),
        ("elitism", "False", False),
        ("elitism", "True", True),
        ("initial_height", "2,5", (2, 5)),
        ("test_milestones", "", ()),
        ("dtype", "float64", "float64"),
    ],
)
def test_overrides_are_read(name, text, value):
    got = parse_override(name, text)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("generation", "10", "Did you mean 'generations'"),
        ("engine", "jvp", "override must be one of"),
        ("threads", "2", "override must be one of"),
        ("generations", "ten", "generations must be int, got 'ten'"),
        ("generations", "1.5", "generations must be int"),
        ("generations", "", "generations must be int"),
        ("elitism", "off", "elitism must be True or False, got 'off'"),
        ("initial_height", "a,b", "initial_height must be whole numbers with commas between"),
        ("__class__", "x", "override must be one of"),
    ],
)
def test_override_errors(name, text, message):
    with pytest.raises(ValueError, match=message):
        parse_override(name, text)


def test_check_choice_names_the_near_miss():
    assert check_choice("thing", "mlp", MODELS) == "mlp"
    with pytest.raises(ValueError, match=r"thing must be one of mlp, logistic, .*; got 'mpl'\. Did you mean 'mlp'\?"):
        check_choice("thing", "mpl", MODELS)
    with pytest.raises(ValueError, match=r"got 'zzzz'\.$"):
        check_choice("thing", "zzzz", MODELS)


# Cells


@pytest.mark.parametrize(
    ("budget", "canonical"),
    [
        ("quick", "quick"),
        ("quick+generations=8", "quick"),
        ("quick+generations=9", "quick+generations=9"),
        ("quick+population=8+generations=9", "quick+generations=9"),
        ("quick+population=9+generations=9", "quick+generations=9+population=9"),
        ("quick+generations=9+generations=8", "quick"),
        ("smoke+base_learning_rate=0.01", "smoke"),
        ("smoke+base_learning_rate=1", "smoke+base_learning_rate=1.0"),
        ("smoke+elitism=True", "smoke"),
        ("smoke+initial_height=2,4", "smoke"),
        ("smoke+initial_height=2,5", "smoke+initial_height=2,5"),
    ],
)
def test_equal_cells_have_equal_names(budget, canonical):
    cell = Cell("diabetes", "mlp", "evomal", 0, budget)
    assert cell.budget == canonical
    assert cell == Cell("diabetes", "mlp", "evomal", 0, canonical)
    assert hash(cell) == hash(Cell("diabetes", "mlp", "evomal", 0, canonical))
    assert Config.for_cell(cell) == config(budget=canonical)


@pytest.mark.parametrize(
    ("budget", "protocol", "canonical"),
    [
        ("quick+elitism=False", "paper", ("quick", "paper+elitism=off")),
        ("quick+elitism=False", "released", ("quick", "released")),
        ("quick+protection=clamp+population=9", "paper", ("quick+population=9", "paper+protection=clamp")),
        ("quick+double_tournament=False", "released", ("quick", "released+tournament=single")),
        ("quick+non_negative=True", "paper+split=overlapping", ("quick", "paper+non_negative=on+split=overlapping")),
    ],
)
def test_an_override_that_is_a_switch_stands_in_the_protocol(budget, protocol, canonical):
    cell = Cell("diabetes", "mlp", "evomal", 0, budget, protocol)
    assert (cell.budget, cell.protocol) == canonical
    assert cell == Cell("diabetes", "mlp", "evomal", 0, *canonical)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_can_be_told_from_its_field(switch):
    for base in ("paper", "released"):
        plain = Config.for_cell(Cell("diabetes", "mlp", "evomal", 0, "quick", base))
        for value in SWITCHES[switch].values:
            changed = Config.for_cell(Cell("diabetes", "mlp", "evomal", 0, "quick", f"{base}+{switch}={value}"))
            differing = [f for f in dataclasses.asdict(plain) if getattr(plain, f) != getattr(changed, f)]
            assert [as_switch(f, getattr(changed, f)) for f in differing] == [f"{switch}={value}"][: len(differing)]
    assert as_switch("population", 3) is None


def test_overrides_stand_in_the_budget():
    cell = Cell("mnist", "logistic", "evomal", 2, "quick")
    changed = cell.with_overrides({"population": 9, "generations": 8})
    assert changed.budget == "quick+population=9"
    assert Config.for_cell(changed) == dataclasses.replace(Config.for_cell(cell), population=9)
    assert changed.with_overrides({"population": 8}) == cell
    assert cell.with_overrides(None) is cell
    assert cell.with_overrides({}) is cell
    assert Config.for_cell(cell.with_overrides({"initial_height": (2, 3), "elitism": False})) == dataclasses.replace(
        Config.for_cell(cell), initial_height=(2, 3), elitism=False
    )
    # what is the default of one data set may be a change for another
    assert cell.with_overrides({"base_momentum": 0.0}) == cell
    assert Cell("cifar10", "vgg16", "evomal", 0, "paper+test_steps=150000").budget == "paper"


@pytest.mark.parametrize("rate", [1e-7, 0.1, 1e16, 1e20, 1.5e300])
def test_every_number_can_be_an_override(rate):
    """Python prints 1e+20, and a plus sign parts overrides."""
    cell = Cell("diabetes", "mlp", "evomal").with_overrides({"base_learning_rate": rate})
    assert Config.for_cell(cell).base_learning_rate == rate


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dataset="diabets"), "Did you mean 'diabetes'"),
        (dict(model="mpl"), "Did you mean 'mlp'"),
        (dict(method="evomol"), "Did you mean 'evomal'"),
        (dict(budget="qick"), "Did you mean 'quick'"),
        (dict(protocol="papr"), "Did you mean 'paper'"),
        (dict(budget="quick+generatons=3"), "Did you mean 'generations'"),
        (dict(budget="quick+generations=0"), "generations must be at least 1, got 0"),
        (dict(budget="quick+generations"), "generations must be int"),
        (dict(budget="quick+"), "override must be one of"),
        (dict(budget="quick+dtype=float16"), "dtype"),
        (dict(seed=-1), "seed must be a whole number"),
        (dict(seed=1.0), "seed must be a whole number"),
        (dict(seed="1"), "seed must be a whole number"),
        (dict(seed=True), "seed must be a whole number"),
        (dict(seed=None), "seed must be a whole number"),
    ],
    ids=str,
)
def test_bad_cells_are_named(arguments, message):
    good = dict(dataset="diabetes", model="mlp", method="evomal", seed=0, budget="quick", protocol="paper")
    with pytest.raises(ValueError, match=message):
        Cell(**good | arguments)


def test_a_bad_override_is_named():
    cell = Cell("diabetes", "mlp", "evomal")
    with pytest.raises(ValueError, match="Did you mean 'generations'"):
        cell.with_overrides({"generation": 3})
    with pytest.raises(ValueError, match="generations"):
        cell.with_overrides({"generations": 2.5})
    with pytest.raises(ValueError, match="elitism"):
        cell.with_overrides({"elitism": 0})


# Streams


def test_streams_depend_on_their_whole_name_and_on_nothing_else():
    names = [(0, "phi"), (1, "phi"), (0, "genetic"), (0, "phi", 0), (0, "phi", 1), (0, "phi", 0, 0)]
    names += [(0, "meta-layers", 0, 0, s) for s in (-1, 0, 1)] + [(0, "meta-layers", 0, 0)]
    drawn = [streams.integer(*name) for name in names]
    assert len(set(drawn)) == len(names)
    torch.manual_seed(3)
    assert [streams.integer(*name) for name in names] == drawn
    assert all(0 <= d < 2**63 for d in drawn)
    for a, b in itertools.pairwise(names):
        assert streams.numpy_generator(*a).random() == streams.numpy_generator(*a).random()
        assert streams.numpy_generator(*a).random() != streams.numpy_generator(*b).random()
        pair = [torch.rand(3, generator=streams.torch_generator(*n)) for n in (a, a, b)]
        assert torch.equal(pair[0], pair[1])
        assert not torch.equal(pair[0], pair[2])


def test_streams_are_those_of_earlier_versions():
    """A change here would change every result."""
    got = [streams.integer(0, purpose) % 10**6 for purpose in streams.PURPOSES[:3]] + [
        streams.integer(3, "meta-train", 0, 1, 2) % 10**6
    ]
    from numpy.random import SeedSequence

    want = [int(SeedSequence([0, k]).generate_state(1, "uint64")[0] >> 1) % 10**6 for k in range(3)]
    want.append(int(SeedSequence([3, 1, 1, 2, 3]).generate_state(1, "uint64")[0] >> 1) % 10**6)
    assert got == want


def test_numpy_scalars_are_numbers():
    """What comes out of an array or a table, and its record's JSON is that of Python's numbers."""
    config = ec.Config(
        base_learning_rate=np.float64(0.5),
        population=np.int64(3),
        test_milestones=[np.int64(3)],
        elitism=np.bool_(False),
    )
    assert config == ec.Config(base_learning_rate=0.5, population=3, test_milestones=(3,), elitism=False)
    assert json.loads(json.dumps(dataclasses.asdict(config)))["test_milestones"] == [3]
    cell = ec.Cell("diabetes", "mlp", "evomal", np.int64(3)).with_overrides({"generations": np.int32(4)})
    assert cell == ec.Cell("diabetes", "mlp", "evomal", 3, "quick+generations=4") and type(cell.seed) is int
    trial = ec.Trial("test", np.int64(5), (np.int64(1),), np.float64(0.5))
    assert repr(trial) == repr(ec.Trial("test", 5, (1,), 0.5))
    with pytest.raises(ValueError, match=r"population must be int, got 2\.5"):
        ec.Config(population=np.float64(2.5))
    with pytest.raises(ValueError, match="seed must be a whole number"):
        ec.Cell("diabetes", "mlp", "evomal", np.float64(1.0))
