"""Learned losses under the mouse: shapes, the explorer, its widgets, live searches, and the notebook in a browser."""

import json
import math
import re
import shutil
import time
from pathlib import Path

import browser
import nbformat
import numpy as np
import pytest
from test_report import folders, write  # noqa: F401, a fixture is used by its name

import evomal_core as ec
from evomal_core.search import evaluate
from evomal_core.tasks import DataUnavailable
from evomal_notebooks import explore, explore_live, explore_plots, explore_view, report

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"
SQUARE = ec.MetaLoss("square(sub(y, f))")
MIRRORED = ec.MetaLoss("square(sub(square(y), square(f)))")
ROW = {"generation": 0, "best_so_far": 0.5, "best": 0.5, "median": None, "mean_size": 4.0, "elite": 0, "symbolic": 1}
ROW |= {"rejected": 2, "equivalent": 1, "evaluated": 4, "non_finite": 0, "seconds_optimise": 1.0}
ROW |= {"seconds_filter": 1.0, "seconds_fitness": 1.0}


# --- shapes ---


def test_minima_of_known_curves():
    x = np.linspace(-1, 1, 201)
    assert explore.minima(x, x**2) == [(pytest.approx(0), pytest.approx(0))]
    assert np.allclose(explore.minima(x, (x**2 - 0.25) ** 2), [(-0.5, -0.5), (0.5, 0.5)])
    assert np.allclose(explore.minima(x, np.maximum(np.abs(x), 0.3)), [(-0.3, 0.3)], atol=0.011), "flat"
    assert explore.minima(x, np.full(201, 3.0)) == [] == explore.minima(x, np.full(201, np.nan))
    assert np.allclose(explore.minima(x, np.where(x < 0, np.inf, x)), [(0, 0)])


def test_a_loss_that_asks_for_the_label_and_one_that_also_asks_for_its_mirror_image():
    found = explore.shape_of(SQUARE)
    assert found.asks and found.words.startswith("The loss asks for the label")
    found = explore.shape_of(MIRRORED)
    assert not found.asks
    assert "for y = −1 it is least where f − y is 0 or 2;" in found.words
    assert set(found.references) == {"squared error", "Huber, δ = 1"}


def test_classification_asks_for_a_probability_of_one():
    cross_entropy = explore.shape_of(ec.MetaLoss("sub(mul(y, log(f)), mul(mul(y, log(f)), add(1, 1)))", None, True))
    assert cross_entropy.asks
    assert np.allclose(cross_entropy.curves[""], cross_entropy.references["cross-entropy"], atol=1e-4)
    brier = explore.shape_of(ec.MetaLoss("square(sub(y, aq(f, 1)))", [1, 1, 2, 1, 1], True))
    assert not brier.asks and "p is 0.74" in brier.words, "(2 sqrt(2) + 4/9) / (4 + 4/9)"


def test_references_are_their_formulas():
    of = {kind: explore.shape_of(ec.MetaLoss("mul(y, f)", None, kind)) for kind in (True, False)}
    focal, p = of[True].references["focal, γ = 2"], of[True].x
    assert np.allclose(focal, -((1 - p) ** 2) * np.log(p), atol=1e-6)
    huber, error = of[False].references["Huber, δ = 1"], of[False].x
    assert np.allclose(huber, np.where(abs(error) < 1, error**2 / 2, abs(error) - 0.5), atol=1e-5)


# --- the explorer ---


@pytest.fixture
def explorer(folders):  # noqa: F811
    """A mirrored loss of EvoMAL on Diabetes, and a loss of random search of the reader's own."""
    learned = ec.MetaLoss(MIRRORED.tree, [1.2, 0.9, 1.0, 1.1, 1.3])
    write(folders[1], "evomal", 0, loss=learned.to_json(), fitness=0.5, history=[ROW])
    write(folders[1], "baseline")
    write(folders[0], "random", 3, loss=SQUARE.to_json(), fitness=0.6)
    return explore.Explorer(report.collect(folders[0], reference_dir=folders[1]))


def test_the_list_has_searches_that_found_a_tree(explorer):
    assert len(explorer.runs) == 2 and [label.endswith(" (own)") for label in explorer.runs] == [False, True]
    own = ec.Cell("diabetes", "mlp", "random", 3, explorer.run.cell.budget)
    assert explorer.nearest(own).endswith(" (own)")
    assert explorer.runs[explorer.nearest(ec.Cell("diabetes", "mlp", "evomal", 7))].cell.method == "evomal"
    with pytest.raises(ValueError, match="expected a record of a search that found a tree"):
        explore.Explorer(report.Records([], [], []))


def test_weights_are_moved_reset_and_set_to_one(explorer):
    assert explorer.edges == ["sub → square", "square → sub", "y → square", "square → sub", "f → square"]
    before = explorer.loss
    explorer.move(2, 2.5)
    assert explorer.loss.weights[2] == 2.5 and before.weights[2] == 1, "the loss of before is another"
    assert explorer.title.endswith("weights moved")
    assert "6.75 y^{2}" in explorer.formula, "1.2 · 0.9 · 2.5²"
    explorer.ones()
    assert explorer.loss.weights.tolist() == [1] * 5 and explorer.title.endswith("all weights 1")
    explorer.reset()
    assert explorer.loss.weights.tolist() == pytest.approx([1.2, 0.9, 1.0, 1.1, 1.3])


def test_an_expression_of_ones_own_or_an_error_that_keeps_the_loss(explorer):
    before = explorer.loss
    for text, error in (("square(sub(y, g))", "unexpected 'g'"), ("square(y)", "lacks f"), ("", "end of text")):
        with pytest.raises(ValueError, match=error):
            explorer.write(text, False)
        assert explorer.loss is before
    explorer.write("square(sub(y, f))", True)
    assert explorer.loss.classification and list(explorer.tasks) == ["digits, logistic"] and explorer.history == []


def test_a_generation_is_told(explorer):
    assert explorer.told(1) == (
        "Generation 1 of 1: the best fitness so far is 0.5000, the generation's median none. "
        "Of 8 candidates 1 known by their tree, 2 rejected, 1 equivalent and 4 evaluated."
    )


def test_training_is_a_fitness_evaluation_from_the_chosen_start(explorer):
    explorer.write("sub(mul(y, log(f)), mul(mul(y, log(f)), add(1, 1)))", True)
    first, again = (explorer.train("digits, logistic", start=3, steps=100) for _ in range(2))
    assert first == again and first.steps[-1] == 100 and len(first.steps) == 25
    own, usual = first.curves.values()
    assert np.allclose(own, usual, atol=0.01), "the loss is cross-entropy"
    assert first.curves != explorer.train("digits, logistic", start=4, steps=100).curves
    assert "After 100 steps on digits, logistic from start 3 the validation error rate is" in first.words
    with pytest.raises(ValueError, match="task must be one of digits, logistic"):
        explorer.train("mnist, lenet5")


def test_training_that_diverged_is_said():
    found = explore.Training(
        "digits, logistic", "error rate", 0, (1,), {"this loss": (math.inf,), "cross-entropy": (1.0,)}
    )
    assert found.words.endswith("the training under this loss diverged.")


# --- widgets, without a kernel ---


def test_widgets_call_the_explorer(explorer):
    view = explore_view.View(explorer)
    curve = view.curve.value
    view.sliders.children[2].value += 0.004
    assert view.curve.value == curve, "the front end's rounding to a step is no move"
    view.sliders.children[2].value = 2.0
    assert view.curve.value != curve and explorer.loss.weights[2] == 2.0
    view.learned.click()
    assert view.curve.value == curve and view.sliders.children[2].value == 1.0
    view.text.value = "square(sub(y, <b>))"
    assert "unexpected &#x27;&lt;&#x27;" in view.verdict.value and explore_plots.WRONG in view.verdict.value
    assert explorer.run is not None, "the loss stays"
    view.text.value = "abs(sub(y, f))"
    assert explorer.run is None and len(view.sliders.children) == 3 and view.generation.disabled
    assert "it is least at f = y" in view.verdict.value and 'alt="' in view.curve.value
    view.records.value = list(explorer.runs)[1]
    assert explorer.run.cell.method == "random"


def test_a_missing_data_set_is_named_in_the_widget(explorer, monkeypatch):
    view = explore_view.View(explorer)

    def missing(*given):
        raise DataUnavailable("Put mnist.npz there.")

    monkeypatch.setattr(explorer, "train", missing)
    view.train()
    assert "Put mnist.npz there. Task diabetes, mlp needs no file." in view.said.value
    assert not view.train_button.disabled and view.trained is None


def test_pictures_are_small_and_have_a_text(explorer):
    pictures = [explore_plots.network(explorer.loss, alt="a"), explore_plots.shape(explorer.shape, alt="b")]
    both = explore_plots.beside([*pictures, explore_plots.history(explorer.history, 1, alt="c")])
    assert both.alt == "a b c" and both.height <= 330 and len(both.png) < 60_000
    assert 'width="300"' in both.html(300) and 'alt="a b c"' in both.html()


# --- live searches ---


@pytest.fixture(scope="module")
def digits():
    task = ec.load_task("digits", device="cpu")
    config = ec.Config.for_cell(ec.Cell("digits", "logistic", "evomal", budget="smoke+generations=4+population=6"))
    return [(task, ec.build_model("logistic", task))], config


def without_seconds(state) -> dict:
    data = state.to_json()
    return data | {"history": [{k: v for k, v in row.items() if "seconds" not in k} for row in data["history"]]}


@pytest.mark.parametrize("method", ["evomal", "taylorglo", "ml3"])
def test_a_search_that_was_stopped_and_resumed_ends_like_an_undisturbed_one(digits, method):
    undisturbed, search = ec.search(*digits, 3, method), explore_live.LiveSearch(*digits, 3, method)
    assert search.run(search.stop) is None or method == "ml3"
    assert search.state.generation == (1 if method != "ml3" else undisturbed.state.generation)
    result = search.run()
    assert str(result.loss) == str(undisturbed.loss)
    assert without_seconds(search.state) == without_seconds(undisturbed.state)
    assert search.words.startswith("The search has ended")


def test_an_interrupt_within_a_generation_leaves_no_trace(digits, monkeypatch):
    undisturbed, search = ec.search(*digits, 3), explore_live.LiveSearch(*digits, 3)
    real, calls = evaluate.fitness, []

    def interrupted(*given):
        calls.append(real(*given))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[-1]

    monkeypatch.setattr(evaluate, "fitness", interrupted)
    assert search.run() is None and search.state.generation == 1 and not search.running
    assert "has stopped, and can be resumed: 1 of 4 generations" in search.words
    search.run()
    assert without_seconds(search.state) == without_seconds(undisturbed.state)


def test_stop_and_resume_under_the_mouse(digits):
    view = explore_live.LiveView(explore_live.LiveSearch(*digits, 3))
    assert view.stop_button.disabled and "has not begun" in view.said.value
    view.resume_button.click()
    view.stop_button.click()
    view.thread.join(120)
    assert not view.search.running and view.stop_button.disabled
    view.run()
    assert view.search.result is not None and view.resume_button.disabled
    assert "The search has ended: 4 of 4 generations" in view.said.value


def test_a_live_search_without_a_reader_ends_before_it_returns(digits):
    search = explore_live.live_search(*digits, 3)
    assert search.result.loss is not None and len(search.state.history) == 4


# --- the notebook ---


def test_committed_pictures_have_a_text_and_no_widget_that_is_gone():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert "widgets" not in notebook.metadata
    shown = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "display_data"
    ]
    assert len(shown) == 4
    for output in shown:
        assert output.data.keys() == {"image/png", "text/plain"}
        assert output.metadata["image/png"]["alt"] == output.data["text/plain"] != ""


@pytest.mark.skipif(browser.executable() is None, reason="there is no Chromium or Chrome")
def test_in_jupyterlab_a_weight_is_dragged_and_a_search_is_stopped_and_resumed(tmp_path):
    path = Path(shutil.copy(NOTEBOOK, tmp_path))
    notebook = nbformat.read(path, as_version=4)
    live = next(number for number, cell in enumerate(notebook.cells) if "= live_search(" in cell.source)
    source = notebook.cells[live].source
    notebook.cells[live].source = source.replace(
        '"quick"', '"quick+generations=500"'
    )  # it is under way when it is stopped
    assert notebook.cells[live].source != source
    nbformat.write(notebook, path)
    of_code = f"{browser.NOTEBOOK}.content.widgets.filter(c => c.model.type === 'code')"
    pictures = "[...document.querySelectorAll('.widget-html-content img')].map(i => [i.alt, i.src])"
    with browser.lab(path, {"PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}"}) as page:
        page.value("void jupyterapp.commands.execute('application:toggle-left-area')")
        page.value("void jupyterapp.commands.execute('notebook:run-all-cells')")
        browser.wait("all cells ran", lambda: all(page.value(f"{of_code}.map(c => c.model.executionCount)")), 300)
        outputs = json.loads(page.value(f"JSON.stringify({of_code}.flatMap(c => c.model.outputs.toJSON()))"))
        assert len(outputs) >= 7 and not [
            o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"
        ]
        page.value(f"void {browser.NOTEBOOK}.content.scrollToItem(0)")
        slider = ".widget-hslider:nth-of-type(4)"
        browser.wait("the sliders are there", lambda: page.value(f"!!document.querySelector('{slider} .noUi-handle')"))
        readout = f"document.querySelector('{slider} .widget-readout').textContent"

        def still() -> bool:  # but for the live search, whose curve grows
            seen, now = [], []
            for found in (seen, now):
                found += [[alt, image] for alt, image in page.value(pictures) if "of a search on digits" not in alt]
                time.sleep(3)
            return seen == now

        before, weight = dict(page.value(pictures)), page.value(readout)
        page.screenshot(tmp_path / "before.png")
        page.drag(f"{slider} .noUi-handle", -30)
        curve = lambda found: next(v for k, v in found.items() if k.startswith("The loss beside"))  # noqa: E731
        browser.wait("the curve moves", lambda: curve(dict(page.value(pictures))) != curve(before), 60)
        assert float(page.value(readout)) < float(weight) - 0.5
        browser.wait("the formula follows", lambda: page.value("document.body.textContent.includes('weights moved')"))
        browser.wait("all moves of the drag are drawn", still)
        page.screenshot(tmp_path / "after.png")

        page.value(f"void {browser.NOTEBOOK}.content.scrollToItem({live})")
        texts = "[...document.querySelectorAll('.widget-html-content')].map(e => e.textContent)"
        button = "document.querySelector('button[title=\"{}\"]')"
        stop, resume = button.format("after this generation"), button.format("from the last generation")
        disabled = f"[{stop}.disabled, {resume}.disabled]"

        def done(state: str) -> int | None:
            """The generations that are done, where the search says that it is in this state."""
            found = [
                re.match(rf"The search {state}.*: (\d+) of 500 generations, best", text) for text in page.value(texts)
            ]
            return next((int(match[1]) for match in found if match), None)

        browser.wait("the live search is there", lambda: page.value(f"!!{stop} && !{stop}.disabled"))
        browser.wait("a generation is done", lambda: done("is running"), 300)
        browser.wait("Stop can be clicked alone", lambda: page.value(disabled) == [False, True])
        page.value(f"{stop}.scrollIntoView({{block: 'start'}})")
        page.click("button[title='after this generation']")
        first = browser.wait("the search has stopped", lambda: done("has stopped, and can be resumed"), 300)
        browser.wait("the buttons follow", lambda: page.value(disabled) == [True, False])
        shown = [alt for alt, _ in page.value(pictures) if "of a search on digits, with the baseline" in alt]
        words = next(text for text in page.value(texts) if text.startswith("The search has stopped"))
        assert shown[-1].endswith(words) and "best fitness 0." in words and "baseline 0." in words
        page.screenshot(tmp_path / "stopped.png")
        page.click("button[title='from the last generation']")
        browser.wait("the search goes on", lambda: (done("is running") or 0) > first, 300)
        browser.wait("Stop can be clicked again", lambda: page.value(disabled) == [False, True])
        page.click("button[title='after this generation']")
        assert (
            browser.wait("the search has stopped again", lambda: done("has stopped, and can be resumed"), 300) > first
        )
