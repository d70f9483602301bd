"""The absolute loss against numbers by hand, autograd and PyTorch's own losses, and where it is least."""

import math

import numpy as np
import pytest
import sympy
import torch
from test_report import folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_notebooks import paper_loss, report, smoothing
from evomal_notebooks.smoothing import ALPHA, EPS, C, P, W, absolute


def test_the_absolute_loss_is_loss_e_with_a_weight():
    assert absolute().expression == paper_loss("e").expression
    assert torch.equal(absolute().weights, paper_loss("e").weights)
    one = float(smoothing.element(1).subs({P: 0.5, W: 1.1, EPS: 1e-7}))
    assert one == pytest.approx(abs(math.log(1.21 * 0.25 + 1e-7)), rel=1e-12)
    assert float(smoothing.element(0).subs(EPS, 1e-7)) == pytest.approx(7 * math.log(10))


def test_the_sum_over_the_outputs_is_what_the_module_gives():
    z, y = torch.randn(5, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    p = z.softmax(-1)[torch.arange(5), y].numpy()
    form = smoothing.numeric(smoothing.forms()["absolute"], w=1.1)
    assert absolute(1.1, torch.float64)(z, y).item() == pytest.approx(form(p).mean(), rel=1e-12)


def test_the_slope_of_softmax_and_the_known_gradients():
    gradients = {name: smoothing.logit_gradient(form) for name, form in smoothing.forms().items()}
    assert sympy.expand(smoothing.softmax_slope() - P * (1 - P)) == 0
    assert sympy.simplify(gradients["cross-entropy"] - (P - 1)) == 0
    assert sympy.simplify(gradients["label smoothing"] - (P - (1 - ALPHA + ALPHA / C))) == 0
    step, form = 1e-6, smoothing.numeric(smoothing.forms()["focal"])
    slope = (form(0.3 + step) - form(0.3 - step)) / (2 * step)
    assert smoothing.numeric(gradients["focal"])(0.3) == pytest.approx(0.3 * 0.7 * slope, rel=1e-8)


@pytest.mark.parametrize("w", [0.9, 1.0, 1.1, 1.25])
def test_sympy_and_autograd_agree(w):
    assert max(smoothing.autograd_gaps(w).values()) < 1e-10
    assert smoothing.slope_gap(w) < 1e-10


def test_the_other_logits_share_the_opposite_of_the_gradient_by_their_probabilities():
    z = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(absolute(1.1, torch.float64)(z, torch.tensor([2])), z)
    p = z.detach().softmax(-1)[0].numpy()
    wanted = -smoothing.numeric(smoothing.logit_gradient(smoothing.element(1)), w=1.1)(p[2]) * p / (1 - p[2])
    wanted[2] *= -(1 - p[2]) / p[2]
    assert gradient[0].numpy() == pytest.approx(wanted, abs=1e-12)


def test_the_optimum_moves_to_the_root_of_1_minus_eps_over_w():
    assert sympy.simplify(smoothing.optimum() - sympy.sqrt(1 - EPS) / W) == 0
    for w in (1.05, 1.1, 1.5, 2.0):
        assert smoothing.least(absolute(w, torch.float64)) == pytest.approx(math.sqrt(1 - 1e-7) / w, abs=5e-8)
    assert smoothing.least(absolute(0.9, torch.float64)) == pytest.approx(1), "below 1 there is no zero"
    assert 1 - float(smoothing.optimum().subs({W: 1, EPS: 1e-7})) == pytest.approx(5e-8, rel=1e-3)


@pytest.mark.parametrize(("name", "expression", "protection"), smoothing.FAMILY)
def test_the_loss_is_zero_at_the_optimum_of_its_kind(name, expression, protection):
    p = float(smoothing.optimum(expression, protection).subs({W: 1.25, EPS: 1e-7}))
    tree = ec.MetaLoss(expression, None, True, protection=protection)
    at = tree.elementwise(torch.ones((), dtype=torch.float64), torch.tensor(1.25 * p, dtype=torch.float64))
    assert abs(at.item()) < 1e-12
    assert p == pytest.approx(0.8, abs=1e-6)


def test_the_equivalent_label_smoothing_has_the_same_optimum():
    assert float(smoothing.smoothing_of(0.91).subs(C, 10)) == pytest.approx(0.1)
    alpha = float(smoothing.smoothing_of(smoothing.optimum()).subs({W: 1.25, EPS: 1e-7, C: 5}))
    assert alpha == pytest.approx(0.25, abs=1e-6)
    assert smoothing.least(torch.nn.CrossEntropyLoss(label_smoothing=alpha), classes=5) == pytest.approx(0.8, abs=1e-6)


def test_the_gradient_changes_its_sign_alone_at_the_optimum_and_vanishes_at_a_small_p():
    slope = smoothing.numeric(smoothing.logit_gradient(smoothing.element(1)), w=1.1)
    below, above = slope(np.array([1 / 1.1 - 1e-6, 1 / 1.1 + 1e-6]))
    assert below == pytest.approx(-2 * (1 - 1 / 1.1), abs=1e-5) and above == pytest.approx(-below, abs=1e-5)
    assert smoothing.flooding_gap() == 0
    half = float(smoothing.half_strength().subs({W: 1.1, EPS: 1e-7}))
    assert half == pytest.approx(math.sqrt(1e-7) / 1.1)
    assert slope(half) == pytest.approx(-(1 - half)), "half of twice cross-entropy's"


def test_limits_are_the_values_close_to_the_ends():
    table, at = smoothing.limits(), {"p → 0": 1e-9, "p → 1": 1 - 1e-9}
    assert table.loc["cross-entropy", "loss, p → 0"] == sympy.oo
    assert table.loc["label smoothing", "loss, p → 1"] == sympy.oo
    values = {ALPHA: 0.1, C: 10, EPS: 1e-7, W: 1.1}
    for name, row in table.iterrows():
        form = smoothing.forms()[name]
        for column, limit in row.items():
            quantity, _, end = column.partition(", ")
            if limit != sympy.oo:
                function = smoothing.numeric(form if quantity == "loss" else smoothing.logit_gradient(form), w=1.1)
                assert function(at[end]) == pytest.approx(float(limit.subs(values)), abs=1e-6), (name, column)


def test_any_weights_of_the_tree_have_one_effective_weight():
    loss = ec.MetaLoss(smoothing.TREE, torch.tensor([3, 1.21, 2, -0.5, 1.2], dtype=torch.float64), True)
    assert smoothing.effective_weight(loss) == pytest.approx(1.32)
    assert smoothing.least(loss) == pytest.approx(1 / 1.32, abs=1e-6)
    with pytest.raises(ValueError, match="expected a loss of the tree"):
        smoothing.effective_weight(paper_loss("a"))


def test_the_focal_loss_by_hand():
    z, y = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64), torch.tensor([1, 0])
    wanted = -(0.25**2 * math.log(0.75) + 0.5**2 * math.log(0.5)) / 2
    assert float(smoothing.FocalLoss()(z, y)) == pytest.approx(wanted)
    assert float(smoothing.FocalLoss(0)(z, y)) == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)))


def test_optima_of_recorded_losses(folders):  # noqa: F811
    write(folders[1], "evomal", 3, loss=absolute(1.25).to_json())
    write(folders[1], "random", 3, loss=ec.MetaLoss("square(sub(y, f))").to_json())  # a loss for regression
    write(folders[1], "baseline", 3)
    (row,) = smoothing.found_optima(report.collect(folders[0], reference_dir=folders[1])).itertuples()
    assert (row.seed, row.p, row.alpha) == (3, pytest.approx(0.8), pytest.approx(0.2 / 0.9))


def test_tables_have_as_many_columns_in_every_line():
    for text in (smoothing.display_forms(), smoothing.display_limits(), smoothing.display_family()):
        assert len({line.count("|") for line in text.splitlines()}) == 1


def test_figures():
    axes = smoothing.loss_and_gradient().axes
    assert [len(axis.lines) for axis in axes] == [6, 7, 7, 7]
    line, dots = smoothing.shifted_optimum().axes[0].lines
    assert dots.get_ydata()[2] == pytest.approx(1 / 1.1, abs=1e-6)
    assert line.get_ydata()[-1] == pytest.approx(0.5)
