"""A loss for other projects and tools: plain source, `torch.export`, TorchScript, ONNX, `torch.func`, `torch.compile`."""

import importlib.util
import warnings

import pytest
import torch

import evomal_core as ec
from evomal_core.losses.neural import NeuralLoss
from evomal_core.losses.taylor import TaylorLoss


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OPTIONS = {"weight": [1.0, 0.5, 2.0, 1.5], "ignore_index": 3, "label_smoothing": 0.1}
VALUES = {
    "symbolic": lambda c: ec.MetaLoss(
        "add(square(sub(y, f)), aq(y, tanh(min(f, sign(y)))))", classification=c, non_negative=True
    ),
    "clamp": lambda c: ec.MetaLoss(
        "mul(log(f), sqrt(sub(y, f)))", [0.9, 1.1, 1.2, 1.3, 0.7, 0.8], c, protection="clamp"
    ),
    "taylor": lambda c: TaylorLoss([0.1, -0.2, 0.3, 1.4, 0.5, -1.6, 0.7, 0.8], classification=c, non_negative=True),
    "taylor, exchanged": lambda c: TaylorLoss(range(8), roles="exchanged", last_term="t0", classification=c),
    "neural": lambda c: NeuralLoss.fresh(generator(0), classification=c),
    "task loss": lambda c: ec.CrossEntropy() if c else ec.SquaredError(),
    "sum": lambda c: ec.MetaLoss("square(sub(y, f))", classification=c, reduction="sum"),
    "none": lambda c: ec.MetaLoss("square(sub(y, f))", classification=c, reduction="none"),
}
CLASSES = {
    "options": lambda c: ec.MetaLoss("square(sub(y, f))", classification=c).with_options(**OPTIONS),
    "task loss with options": lambda c: ec.CrossEntropy().with_options(**OPTIONS),
    "one logit": lambda c: VALUES["symbolic"](c).of_one_logit(),
    "one logit of the task loss": lambda c: ec.CrossEntropy().with_options(weight=[1, 3]).of_one_logit(),
}
CASES = [(name, c) for c in (False, True) for name in VALUES] + [(name, True) for name in CLASSES]
onnx_is_there = all(map(importlib.util.find_spec, ("onnx", "onnxscript")))
every_loss = pytest.mark.parametrize(("name", "classification"), CASES)


def made(name: str, classification: bool, batch: int = 6, seed: int = 0):
    """(loss, prediction, target), the loss frozen as one that was found."""
    loss, g = (VALUES | CLASSES)[name](classification).requires_grad_(False), generator(seed)
    if name.startswith("one logit"):
        return loss, torch.randn(batch, 1, generator=g), torch.randint(2, (batch,), generator=g)
    z = torch.randn(batch, 4, generator=g)
    return loss, z, torch.randint(4, (batch,), generator=g) if classification else torch.randn(batch, 4, generator=g)


def close(got, want) -> None:
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def slope(loss, z, y):
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, y).sum(), leaf)[0]


@every_loss
def test_source_gives_the_same_values_and_gradients(name, classification):
    loss, z, y = made(name, classification)
    source, scope = loss.to_python(), {}
    assert "evomal" not in source and source.startswith("import torch\n") and source.count("import") == 1
    exec(source, scope)
    close(scope["loss"](z, y), loss(z, y))
    close(slope(scope["loss"], z, y), slope(loss, z, y))
    if name in ("symbolic", "taylor", "neural") and classification:
        soft = torch.softmax(torch.randn(6, 4, generator=generator(1)), 1)
        images, labels = torch.randn(2, 3, 4, 5, generator=generator(1)), torch.zeros(2, 4, 5, dtype=torch.int64)
        for prediction, target in ((z, soft), (images, labels), (images.movedim(1, -1), labels), (z.bfloat16(), y)):
            found = scope["loss"](prediction, target)
            assert found.dtype == torch.float32
            close(found, loss(prediction, target))
        with pytest.raises(ValueError, match="integer class indices of shape"):
            scope["loss"](z, y[:, None])


def test_weights_that_are_not_finite_have_no_source():
    with pytest.raises(ValueError, match="non-finite weights"):
        ec.MetaLoss("sub(y, f)", [1.0, float("nan")]).to_python()


@every_loss
def test_torch_export_gives_the_same_values_at_any_batch_size(name, classification):
    loss, z, y = made(name, classification)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(loss, (z, y), dynamic_shapes=({0: batch}, {0: batch})).module()
    for size in (6, 11):
        _, z, y = made(name, classification, size, 3)
        close(exported(z, y), loss(z, y))
        close(slope(exported, z, y), slope(loss, z, y))


@every_loss
def test_torchscript_by_tracing_gives_the_same_values(name, classification):
    loss, z, y = made(name, classification)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on checks of shapes, which the trace leaves out
        traced = torch.jit.trace(loss, (z, y))
    for size in (6, 11):
        _, z, y = made(name, classification, size, 3)
        close(traced(z, y), loss(z, y))


@pytest.mark.skipif(not onnx_is_there, reason="onnx and onnxscript are not installed")
@every_loss
def test_onnx_gives_the_same_values(name, classification, tmp_path):
    import onnx
    from onnx.reference import ReferenceEvaluator

    runtime = importlib.util.find_spec("onnxruntime") and importlib.import_module("onnxruntime")
    loss, z, y = made(name, classification)
    if name == "task loss with options":
        loss = loss.with_options(label_smoothing=0)  # which PyTorch's translation of its own cross-entropy leaves out
    batch = torch.export.Dim("batch")
    shapes = {0: batch}, {0: batch}
    torch.onnx.export(loss, (z, y), tmp_path / "loss.onnx", dynamo=True, dynamic_shapes=shapes, verbose=False)
    model = onnx.load(tmp_path / "loss.onnx")
    names = [given.name for given in model.graph.input]
    run = [ReferenceEvaluator(model).run]
    if runtime:
        run.append(runtime.InferenceSession(tmp_path / "loss.onnx", providers=["CPUExecutionProvider"]).run)
    for size in (6, 11):
        _, z, y = made(name, classification, size, 3)
        for engine in run:
            (got,) = engine(None, dict(zip(names, (z.numpy(), y.numpy()), strict=True)))
            close(torch.tensor(got), loss(z, y))


@pytest.mark.skipif(not onnx_is_there, reason="onnx and onnxscript are not installed")
@pytest.mark.filterwarnings("ignore:no learned loss")
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_found_loss_goes_to_onnx(task, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    x = torch.randn(48, 4, generator=generator(0))
    y = {"binary": x[:, 0] > 0, "multiclass": torch.arange(48) % 3, "regression": x[:, :1]}[task]
    model = torch.nn.Linear(4, 3 if task == "multiclass" else 1)
    budget = "smoke+generations=1+rejection_steps=5+test_steps=6+fitness_steps=3"
    found = ec.search_loss(model, (x[:32], y[:32]), (x[32:], y[32:]), task, budget=budget, progress=False, starts=1)
    z, batch = model(x).detach(), torch.export.Dim("batch")
    y = y.float()[:, None] if task == "binary" else y
    for number, leader in enumerate(found.leaders[:3]):
        path = tmp_path / f"{number}.onnx"
        torch.onnx.export(
            leader.loss, (z, y), path, dynamo=True, dynamic_shapes=({0: batch}, {0: batch}), verbose=False
        )
        names = [given.name for given in onnx.load(path).graph.input]
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for rows in (slice(48), slice(7)):
            (got,) = session.run(None, dict(zip(names, (z[rows].numpy(), y[rows].numpy()), strict=True)))
            close(torch.tensor(got), leader.loss(z[rows], y[rows]))


@every_loss
def test_gradients_of_each_instance_by_vmap(name, classification):
    loss, z, y = made(name, classification)
    if name == "none":
        loss = loss.with_options(reduction="sum")
    if "options" in name:
        loss = loss.with_options(ignore_index=-100)  # the mean of no instance is NaN
    got = torch.func.vmap(torch.func.grad(loss))(z, y)
    close(got, torch.stack([slope(loss, *pair) for pair in zip(z, y, strict=True)]))


@every_loss
def test_hessian(name, classification):
    loss, z, y = made(name, classification, 2)
    if name == "none":
        loss = loss.with_options(reduction="sum")
    if "options" in name:
        loss = loss.with_options(ignore_index=-100)
    got = torch.func.hessian(loss)(z, y)
    assert got.isfinite().all()
    close(got, torch.autograd.functional.hessian(lambda t: loss(t, y), z))


@every_loss
def test_compiled_without_a_break_it_gives_the_same_values(name, classification):
    torch.compiler.reset()
    loss, z, y = made(name, classification)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    close(compiled(z, y), loss(z, y))
    close(slope(compiled, z, y), slope(loss, z, y))
