"""A loss in users' own training code: frozen weights, options and layouts of PyTorch's losses, one logit, number types."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import evomal_core as ec
from evomal_core.fast.derivatives import Derivatives, LossInputs, closed_form, taped
from evomal_core.losses import loss_from_json
from evomal_core.losses.neural import NeuralLoss
from evomal_core.losses.primitives import SOFTPLUS
from evomal_core.losses.taylor import TaylorLoss
from evomal_core.search import Leader, Result, SearchState
from evomal_core.training import unroll

ENTROPY = "mul(-1, mul(y, log(f)))"  # cross-entropy but for the 1e-7 inside the logarithm


def kinds(classification: bool) -> dict:
    """A loss of every kind that has weights."""
    return {
        "symbolic": ec.MetaLoss(
            "add(square(sub(y, f)), aq(y, tanh(f)))", [0.9, 1.2, 1.1, 0.8, 0.7, 1.3, 0.6, 1.4], classification
        ),
        "taylor": TaylorLoss([0.1, -0.2, 0.3, 1.4, 0.5, -1.6, 0.7, 0.8], classification=classification),
        "neural": NeuralLoss.fresh(torch.Generator().manual_seed(0), classification=classification),
    }


KINDS = ("symbolic", "taylor", "neural")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def frozen(loss) -> bool:
    return not any(p.requires_grad for p in loss.parameters())


# Frozen


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_read_or_found_is_frozen_and_a_trainable_copy_is_not(kind, tmp_path):
    loss = kinds(True)[kind]
    assert not frozen(loss)
    loss.save(tmp_path / "loss.json")
    read = ec.load_loss(tmp_path / "loss.json")
    result = Result(copy.deepcopy(loss), None, (Leader(copy.deepcopy(loss), 0.5),), SearchState())
    for found in (read, result.loss, result.leaders[0].loss, read.of_one_logit(), read.with_options(weight=[1, 2])):
        assert frozen(found)
        again = found.trainable()
        assert type(again) is type(found) and all(p.requires_grad for p in again.parameters()) and frozen(found)
    assert list(read.state_dict()) == ["weights"]
    assert read.to(torch.float64).weights.dtype == torch.float64 and frozen(read)


def test_a_task_loss_of_a_user_with_weights_stays_as_it_is():
    own = nn.Linear(1, 1)
    assert not frozen(Leader(own, None).loss)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimiser_of_all_parameters_does_not_train_a_found_loss(optimiser):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.loss = nn.Linear(4, 3), loss_from_json(kinds(True)["symbolic"].to_json())

    module, x = Module(), torch.randn(20, 4, generator=generator(0))
    before, weights = module.loss.weights.clone(), module.model.weight.detach().clone()
    steps = optimiser(module.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        steps.zero_grad()
        module.loss(module.model(x), x.argmax(1) % 3).backward()
        steps.step()
    assert torch.equal(module.loss.weights, before)
    assert not torch.equal(module.model.weight, weights)


def test_meta_training_refuses_a_frozen_loss_by_name():
    batch = torch.ones(4, 2), torch.ones(4, 1)
    loss = ec.MetaLoss("square(sub(y, f))")
    config, arguments = ec.Config(inner_steps=1), (nn.Linear(2, 1), batch, batch, nn.MSELoss())
    (wanted,) = ec.meta_gradient(loss, *arguments, config)
    read = loss_from_json(loss.to_json())
    with pytest.raises(ValueError, match=r"such as `loss.trainable\(\)` of one that was found, got a frozen MetaLoss"):
        ec.meta_gradient(read, *arguments, config)
    with pytest.raises(ValueError, match="frozen MetaLoss"):
        unroll.optimise_losses([read], [], config, 0)
    assert torch.equal(ec.meta_gradient(read.trainable(), *arguments, config)[0], wanted)


# Options


@st.composite
def batches(draw):
    """(logits, class indices, soft labels, class weights) with classes in dimension 1."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    classes, seed = draw(st.integers(2, 5)), draw(st.integers(0, 2**31))
    g = generator(seed)
    z = torch.randn(shape[0], classes, *shape[1:], generator=g, dtype=torch.float64)
    y = torch.randint(classes, shape, generator=g)
    soft = torch.softmax(torch.randn(z.shape, generator=g, dtype=torch.float64), 1)
    return z, y, soft, torch.rand(classes, generator=g, dtype=torch.float64) + 0.1


@settings(max_examples=150)
@given(
    batches(),
    st.sampled_from(["mean", "sum", "none"]),
    st.booleans(),
    st.sampled_from([None, -100, 0]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
)
def test_options_and_layouts_are_those_of_cross_entropy(batch, reduction, weighted, ignored, smoothing, soft):
    z, y, labels, weight = batch
    options = {"reduction": reduction, "weight": weight if weighted else None, "label_smoothing": smoothing}
    loss = ec.MetaLoss(ENTROPY, classification=True).double().with_options(**options, ignore_index=ignored)
    if soft:
        assume(ignored != 0)
        target = labels
    else:
        target = y.masked_fill(torch.rand(y.shape, generator=generator(1)) < 0.3, ignored) if ignored is not None else y
    theirs = nn.CrossEntropyLoss(**options, ignore_index=-100 if ignored is None else ignored)
    z.requires_grad_()
    got, want = loss(z, target), theirs(z, target)
    torch.testing.assert_close(got, want.expand_as(got), rtol=1e-4, atol=1e-4, equal_nan=True)
    (of_got,), (of_want,) = (torch.autograd.grad(value.sum(), z) for value in (got, want))
    if want.isfinite().all():  # the gradient of PyTorch's mean of nothing is zero or NaN
        torch.testing.assert_close(of_got, of_want, rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(batches(), st.sampled_from(KINDS), st.booleans())
def test_every_kind_counts_instances_as_its_options_say(batch, kind, weighted):
    """By hand: each instance alone, then weighed, spread and left out."""
    z, y, soft, weight = batch
    weight = weight if weighted else torch.ones_like(weight)
    loss, classes = kinds(True)[kind].double(), z.shape[1]
    rows, flat = z.movedim(1, -1).reshape(-1, classes), y.reshape(-1)

    def of(row, label):
        onehot = torch.nn.functional.one_hot(torch.tensor(label), classes).double()
        return loss.elementwise(onehot, torch.softmax(row, 0)).sum().detach()

    table = torch.stack([torch.stack([of(row, c) for c in range(classes)]) for row in rows])  # instance, label
    each, shares = table[torch.arange(len(flat)), flat], soft.movedim(1, -1).reshape(-1, classes)
    counted = weight[flat]
    option = weight if weighted else None
    close = lambda a, b: torch.testing.assert_close(a.detach(), b, rtol=1e-9, atol=1e-9, equal_nan=True)  # noqa: E731
    close(loss.with_options(weight=option)(z, y), (each * counted).sum() / counted.sum())
    close(loss.with_options(weight=option, reduction="none")(z, y).reshape(-1), each * counted)
    close(loss.with_options(weight=option, reduction="sum")(z, soft), (table * shares * weight).sum())
    close(loss.with_options(weight=option)(z, soft), (table * shares * weight).sum() / len(flat))
    smooth = 0.8 * each * counted + 0.2 / classes * (table * weight).sum(1)
    close(loss.with_options(weight=option, label_smoothing=0.2)(z, y), smooth.sum() / counted.sum())
    kept = flat != 1
    close(loss.with_options(weight=option, ignore_index=1)(z, y), (each * counted)[kept].sum() / counted[kept].sum())


def test_an_ignored_instance_may_hold_anything():
    z = torch.tensor([[1.0, 2.0], [math.nan, math.inf]], requires_grad=True)
    loss = ec.MetaLoss("square(sub(y, f))", classification=True)
    ignoring = loss.with_options(ignore_index=-100)
    value = ignoring(z, torch.tensor([1, -100]))
    assert value == loss(z[:1], torch.tensor([1]))
    value.backward()
    assert z.grad.isfinite().all() and (z.grad[1] == 0).all()
    assert ignoring(z, torch.tensor([-100, -100])).isnan()  # as PyTorch's mean of nothing


def test_classes_lie_in_dimension_1_where_both_layouts_fit_and_else_where_the_labels_say():
    loss = ec.MetaLoss("square(sub(y, f))", classification=True)
    z, y = torch.randn(2, 3, 3, generator=generator(0)), torch.randint(3, (2, 3), generator=generator(1))
    flat = loss(z.movedim(1, -1).reshape(6, 3), y.reshape(6))
    torch.testing.assert_close(loss(z, y), flat)
    last = torch.randn(2, 4, 3, generator=generator(0))  # only the last dimension leaves (2, 4)
    y = torch.randint(3, (2, 4), generator=generator(1))
    torch.testing.assert_close(loss(last, y), loss(last.reshape(8, 3), y.reshape(8)))
    torch.testing.assert_close(loss(last.movedim(-1, 1), y), loss(last, y))


@pytest.mark.parametrize(
    ("z", "y", "message"),
    [
        (
            (4, 3, 5),
            (4, 4),
            r"integer class indices of shape \(4, 5\) or \(4, 3\) or probabilities .* got torch.int64 \(4, 4\)",
        ),
        ((4, 3), (4, 1), r"shape \(4, 3\) needs integer class indices of shape \(4,\) or probabilities"),
        ((4, 1), (4,), r"two or more, got shape \(4, 1\); one logit .* loss.of_one_logit\(\)"),
        ((), (), r"a prediction of shape \(\) needs"),
    ],
)
def test_shapes_that_do_not_fit_are_named(z, y, message):
    with pytest.raises(ValueError, match=message):
        ec.MetaLoss("sub(y, f)", classification=True)(torch.zeros(z), torch.zeros(y, dtype=torch.int64))


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_a_class_index_that_is_none_is_named(label):
    with pytest.raises(ValueError, match=f"class indices must be from 0 to 2, got {min(label, 1)} to {max(label, 1)}"):
        ec.MetaLoss("sub(y, f)", classification=True)(torch.zeros(2, 3), torch.tensor([1, label]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "batchmean"}, "reduction must be one of mean, sum, none"),
        ({"weight": [1.0]}, "weight must be a finite number a class"),
        ({"weight": [1.0, -1.0]}, "weight must be a finite number a class, not negative"),
        ({"weight": [1.0, math.nan]}, "weight must be a finite number a class"),
        ({"weight": ["a", "b"]}, "weight must be numbers"),
        ({"ignore_index": 1.0}, "ignore_index must be a whole number or None, got 1.0"),
        ({"label_smoothing": 2}, "label_smoothing must be a number from 0 to 1, got 2"),
        ({"label_smoothing": "0.1"}, "label_smoothing must be a number from 0 to 1, got '0.1'"),
    ],
)
def test_options_that_are_none_are_named(options, message):
    for loss in (ec.MetaLoss("sub(y, f)", classification=True), ec.CrossEntropy()):
        with pytest.raises(ValueError, match=message):
            loss.with_options(**options)
    if "reduction" not in options:
        for loss in (ec.MetaLoss("sub(y, f)"), ec.SquaredError()):
            with pytest.raises(ValueError, match="options of a loss for regression must be reduction"):
                loss.with_options(**options)


def test_options_that_do_not_go_with_a_batch_are_named():
    loss = ec.MetaLoss("sub(y, f)", classification=True)
    with pytest.raises(ValueError, match="weight must have one number a class, 3, got 2"):
        loss.with_options(weight=[1, 2])(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="ignore_index must be negative for a target of probabilities, got 1"):
        loss.with_options(ignore_index=1)(torch.zeros(2, 3), torch.ones(2, 3) / 3)


OPTIONS = {"weight": [1.0, 2.5, 0.1], "ignore_index": -1, "label_smoothing": 0.1, "reduction": "none"}


@pytest.mark.parametrize("kind", [*KINDS, "cross-entropy", "one logit"])
def test_options_are_a_copy_s_and_stand_in_its_file(kind, tmp_path):
    loss = {"cross-entropy": ec.CrossEntropy(), "one logit": kinds(True)["symbolic"].of_one_logit()} | kinds(True)
    loss, options = loss[kind], OPTIONS | ({"weight": [1.0, 2.5]} if kind == "one logit" else {})
    before = json.dumps(loss.to_json())
    made = loss.with_options(**options).with_options(reduction="sum").with_options(reduction="none")
    assert json.dumps(loss.to_json()) == before and "class_weight" not in before
    made.save(tmp_path / "l.json")
    read = ec.load_loss(tmp_path / "l.json")
    assert type(read) is type(made) and read.to_json() == made.to_json()
    z, y = torch.randn(6, 3, generator=generator(0)), torch.tensor([0, 1, 2, -1, 2, 0])
    z, y = (z[:, 0], y.clamp(max=1)) if kind == "one logit" else (z, y)
    assert torch.equal(read(z, y), made(z, y)) and read(z, y)[3] == 0
    plain = read.with_options(weight=None, ignore_index=None, label_smoothing=0, reduction="mean")
    assert json.dumps(plain.to_json()) == before
    buffers = dict(made.named_buffers())
    assert [len(b) for b in buffers.values()] == [len(options["weight"])]
    assert all(b.dtype == torch.float64 for b in copy.deepcopy(made).double().buffers())


def test_a_task_loss_keeps_its_reduction_in_its_file(tmp_path):
    ec.SquaredError().with_options(reduction="sum").save(tmp_path / "l.json")
    assert ec.load_loss(tmp_path / "l.json").reduction == "sum"
    assert ec.SquaredError().to_json() == {"kind": "squared_error"}


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms_leave_a_loss_with_options_to_autograd(kind):
    loss = kinds(True)[kind].double()
    z = torch.randn(6, 3, generator=generator(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 2, 2, 0])
    for options in ({"weight": [1, 2, 3]}, {"ignore_index": 1}, {"label_smoothing": 0.1}, {"reduction": "sum"}):
        other = loss.with_options(**options)
        assert not taped(other) and closed_form(other) is None
        found, leaf = Derivatives([other], LossInputs(z, y)), z.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(other(leaf, y), leaf)
        torch.testing.assert_close(found.v[0], wanted)


# One logit


@settings(max_examples=60)
@given(
    st.sampled_from([*KINDS, "cross-entropy"]),
    st.lists(st.floats(-50, 50), min_size=1, max_size=6),
    st.integers(0, 2**31),
)
def test_one_logit_is_two_of_which_one_is_zero(kind, values, seed):
    loss = (kinds(True) | {"cross-entropy": ec.CrossEntropy()})[kind].double()
    z = torch.tensor(values, dtype=torch.float64)
    y = torch.randint(2, z.shape, generator=generator(seed))
    one, two = loss.of_one_logit(), torch.stack([torch.zeros_like(z), z], -1)
    want = loss(two, y)
    for prediction, target in ((z, y), (z, y.bool()), (z[:, None], y), (z[:, None], y[:, None]), (z, y.double())):
        torch.testing.assert_close(one(prediction, target), want, rtol=1e-9, atol=1e-9)
    probability = torch.rand(z.shape, generator=generator(seed), dtype=torch.float64)
    soft = loss(two, torch.stack([1 - probability, probability], -1))
    torch.testing.assert_close(one(z[:, None], probability), soft)
    each = one.with_options(reduction="none")(z[:, None], y[:, None])
    assert each.shape == (len(z), 1)
    torch.testing.assert_close(each.mean(), want)


@settings(max_examples=40)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=6), st.floats(0.1, 10), st.integers(0, 2**31))
def test_cross_entropy_of_one_logit_is_pytorch_s(values, positive, seed):
    z = torch.tensor(values, dtype=torch.float64)
    y = torch.randint(2, z.shape, generator=generator(seed)).double()
    got = ec.CrossEntropy().with_options(weight=[1, positive]).double().of_one_logit()(z, y)
    want = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(positive, dtype=torch.float64))(z, y)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_one_logit_needs_a_loss_of_two_classes_and_targets_of_its_shape():
    with pytest.raises(ValueError, match="classification=True"):
        ec.MetaLoss("sub(y, f)").of_one_logit()
    one = ec.MetaLoss("sub(y, f)", classification=True).of_one_logit()
    with pytest.raises(ValueError, match="classification=True"):
        one.of_one_logit()
    for z, y in (((4, 2), (4,)), ((4,), (4, 1)), ((4, 1), (1, 1)), ((4,), (1,))):
        with pytest.raises(ValueError, match="needs a target of shape"):
            one(torch.zeros(z), torch.zeros(y))
    with pytest.raises(ValueError, match="from 0 to 1, got 0 to 2"):
        one(torch.zeros(2), torch.tensor([0, 2]))
    assert one.to_latex() == one.loss.to_latex() and str(one) == "one_logit(sub(y, f))"


# Numbers


@pytest.mark.parametrize("classification", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_and_gradients_of_its_own_type(classification, dtype):
    z = torch.randn(5, 3, generator=generator(0)).to(dtype)
    y = torch.tensor([0, 1, 2, 0, 1]) if classification else z.flip(0)
    losses = [*kinds(classification).values()]
    losses += [loss.with_options(reduction="sum", weight=[1, 2, 3]) for loss in losses if classification]
    for loss in losses:
        leaf = z.clone().requires_grad_()
        value = loss(leaf, y)
        value.backward()
        assert value.dtype == torch.float32 and leaf.grad.dtype == dtype
        assert value == loss(z.float(), y if classification else y.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(z, y), value)
        assert loss(z.double(), y if classification else y.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "numbers",
    [
        [np.float32(2), np.float32(3)],
        [np.int64(2), np.float64(3)],
        np.array([2, 3]),
        np.float32([2, 3]),
        (2, np.int8(3)),
    ],
)
def test_numbers_of_numpy_are_numbers(numbers, tmp_path):
    loss = ec.MetaLoss("sub(y, f)", numbers, True)
    assert loss.weights.tolist() == [2.0, 3.0] and loss.weights.is_floating_point()
    given = loss.with_options(weight=numbers, label_smoothing=np.float32(0.5), ignore_index=np.int64(255))
    assert (given.class_weight.tolist(), given.label_smoothing, given.ignore_index) == ([2.0, 3.0], 0.5, 255)
    given.save(tmp_path / "l.json")
    assert ec.load_loss(tmp_path / "l.json").to_json() == given.to_json()


@pytest.mark.parametrize("weights", [["a", "b"], [1j, 2.0], [True, False], None, [[1.0], [2.0, 3.0]], object()])
def test_weights_that_are_no_numbers_are_named(weights):
    with pytest.raises(ValueError, match="weights"):
        TaylorLoss(weights)


def test_home_is_found_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ec.MetaLoss("sub(y, f)").save("~/losses/l.json")
    assert (tmp_path / "losses" / "l.json").exists()
    assert str(ec.load_loss("~/losses/l.json")) == "sub(y, f)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_softplus_output_has_finite_derivatives_everywhere(dtype):
    x = torch.tensor([-1e30, -1000.0, -104.0, -89.0, -88.0, -20.0, 0.0, 20.0, 49.0, 51.0, 88.0, 1e30], dtype=dtype)
    value, leaf = lambda t: SOFTPLUS.value(torch, t), x.clone().requires_grad_()
    torch.testing.assert_close(
        value(x), torch.logaddexp(x, torch.zeros_like(x)), rtol=1e-6 if dtype == torch.float32 else 1e-15, atol=0
    )
    (first,) = torch.autograd.grad(value(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    s = torch.sigmoid(x)
    torch.testing.assert_close(first.detach(), s)
    torch.testing.assert_close(second, s * (1 - s))
    with np.errstate(all="ignore"):
        assert all(np.isfinite(part).all() for part in SOFTPLUS.derivatives(np, x.numpy()))
    loss = ec.MetaLoss("mul(f, add(y, 1))", non_negative=True, reduction="sum").to(dtype)
    hessian = torch.func.hessian(loss)(x[1:-1], torch.zeros_like(x[1:-1]))
    assert hessian.isfinite().all()
