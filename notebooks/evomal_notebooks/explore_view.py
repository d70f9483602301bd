"""The widgets of notebooks/explore.ipynb: a thin layer that calls an `Explorer`, and shows what it gives.

Where no reader is there (papermill, nbconvert, nbval) each callback is called once with its defaults, and the pictures are
shown without widgets.
"""

import html
from collections.abc import Callable
from dataclasses import replace

import ipywidgets

from evomal_core.tasks import DataUnavailable

from . import explore, explore_plots, report
from .explore_live import attended, present
from .parameters import Parameters

STEP, SLIDER_LOW, SLIDER_HIGH = 0.01, -1.0, 3.0  # of a weight; wider where the learned weight is near or beyond
EXAMPLE = "square(sub(y, f))"
NETWORK_WIDTH, NETWORK_HEIGHT = 800, 400  # pixels, at most


def opened(p: Parameters) -> "View":
    """The view of all records, which begins with that of the notebook's first row and seed, or with the nearest there is."""
    explorer = explore.Explorer(report.collect(p.results_dir), p.data_dir, p.device)
    cell = replace(p.rows[0], seed=p.seed or 0)
    label = explorer.nearest(cell)
    explorer.choose(label)
    if explorer.run.cell.search != cell.search:
        print(f"There is no record of {cell}, so the nearest is shown: {label}.")
    return View(explorer)


def say(text: str, wrong: bool = False) -> str:
    """A text as HTML; what is wrong is red."""
    colour = explore_plots.WRONG if wrong else "inherit"
    return f'<div style="color:{colour};line-height:1.35;padding:2px">{html.escape(text)}</div>'


def row(*widgets: ipywidgets.Widget, **layout) -> ipywidgets.HBox:
    return ipywidgets.HBox(widgets, layout=ipywidgets.Layout(flex_flow="row wrap", **layout))


class View:
    """The three panels: the loss with its weights and shape, training under it, and the search that found it.

    Attributes:
        loss_box, training_box, history_box: the panels.
    """

    def __init__(self, explorer: explore.Explorer):
        self.explorer = explorer
        self._quiet = False  # while widgets are set by the program
        self.trained: explore.Training | None = None
        self._make_loss()
        self._make_training()
        self._make_history()
        self.take()

    # --- the panels ---

    def _make_loss(self) -> None:
        labels = list(self.explorer.runs)
        self.records = ipywidgets.Dropdown(
            options=labels, value=self.explorer.label, description="Record", layout=ipywidgets.Layout(width="440px")
        )
        self.records.observe(lambda _: self._unless_quiet(self.choose), "value")
        self.text = ipywidgets.Text(
            EXAMPLE, description="Or your own", continuous_update=False, layout=ipywidgets.Layout(width="300px")
        )
        self.kind = ipywidgets.Dropdown(
            options=[("regression", False), ("classification", True)], layout=ipywidgets.Layout(width="120px")
        )
        self.own = _button("Show", self.write, "the expression of your own", "60px")
        self.text.observe(lambda _: self._unless_quiet(self.write), "value")
        self.learned = _button("As learned", self.reset, "all weights", "90px")
        self.all_ones = _button("All ones", self.ones, "the tree itself", "90px")
        self.formula = ipywidgets.HTMLMath(layout=ipywidgets.Layout(overflow="auto"))
        self.verdict = ipywidgets.HTML()
        self.network, self.curve = ipywidgets.HTML(), ipywidgets.HTML()
        self.sliders = ipywidgets.VBox(layout=ipywidgets.Layout(height="258px", overflow="auto", display="block"))
        weights = ipywidgets.VBox([row(self.learned, self.all_ones), self.sliders])
        self.loss_box = ipywidgets.VBox(
            [
                row(self.records, self.text, self.kind, self.own),
                self.verdict,
                row(weights, self.curve),
                self.formula,
                self.network,
            ]
        )

    def _make_training(self) -> None:
        self.task = ipywidgets.Dropdown(description="Task", layout=ipywidgets.Layout(width="280px"))
        self.start = ipywidgets.IntSlider(0, 0, explore.STARTS - 1, description="Start", continuous_update=False)
        self.train_button = _button(
            f"Train {explore.STEPS} steps", self.train, "under this loss and the task loss", "140px"
        )
        self.errors, self.said = ipywidgets.HTML(), ipywidgets.HTML()
        self.training_box = ipywidgets.VBox([row(self.task, self.start, self.train_button), self.said, self.errors])

    def _make_history(self) -> None:
        self.generation = ipywidgets.IntSlider(
            1, 1, 1, description="Generation", layout=ipywidgets.Layout(width="460px")
        )
        self.generation.observe(lambda _: self._unless_quiet(self.look_back), "value")
        self.past, self.counts = ipywidgets.HTML(), ipywidgets.HTML()
        self.history_box = ipywidgets.VBox([self.generation, self.counts, self.past])

    # --- callbacks ---

    def _unless_quiet(self, callback: Callable[[], None]) -> None:
        if not self._quiet:
            callback()

    def choose(self) -> None:
        """The record that the list stands at."""
        self.explorer.choose(self.records.value)
        self.take()

    def write(self) -> None:
        """The expression that was typed; what is wrong with it is said, and the loss stays."""
        try:
            self.explorer.write(self.text.value, self.kind.value)
        except ValueError as error:
            self.verdict.value = say(str(error), wrong=True)
        else:
            self.take()

    def reset(self) -> None:
        self.explorer.reset()
        self._set_sliders()

    def ones(self) -> None:
        self.explorer.ones()
        self._set_sliders()

    def move(self, edge: int) -> None:
        """One slider was moved, by more than the front end's rounding to its steps."""
        weight = self.sliders.children[edge].value
        if abs(weight - self.explorer.loss.weights[edge].item()) > STEP / 2:
            self.explorer.move(edge, weight)
            self.show()

    def train(self) -> None:
        """Train from the start that is chosen; a data set that is not on disk is named."""
        self.said.value = say(f"Training on {self.task.value} from start {self.start.value} …")
        self.train_button.disabled = True
        try:
            self.trained = self.explorer.train(self.task.value, self.start.value)
        except (DataUnavailable, ValueError) as error:
            instead = ", ".join(explore.STAND_IN[self.explorer.loss.classification])
            self.said.value = say(f"{error} Task {instead} needs no file.", wrong=True)
        else:
            self.said.value = say(self.trained.words)
            self.errors.value = self.training_picture().html()
        finally:
            self.train_button.disabled = False

    def look_back(self) -> None:
        """The generation that the slider stands at."""
        self.counts.value = say(self.explorer.told(self.generation.value))
        self.past.value = self.history_picture().html() if self.explorer.history else ""

    # --- what is shown ---

    def take(self) -> None:
        """Show a loss that is new in the explorer, with sliders of its own."""
        for slider in self.sliders.children:
            slider.close()
        self.sliders.children = [self._slider(edge, name) for edge, name in enumerate(self.explorer.edges)]
        self.errors.value = ""
        self.said.value = say("Nothing was trained yet under this loss.")
        with _quiet(self):
            self.task.options = list(self.explorer.tasks)
            self.task.value = self.task.options[0]
            self.generation.max = max(1, len(self.explorer.history))
            self.generation.value = self.generation.max
            self.generation.disabled = not self.explorer.history
        self.show()
        self.look_back()

    def _slider(self, edge: int, name: str) -> ipywidgets.FloatSlider:
        weight = self.explorer.loss.weights[edge].item()
        low, high = min(SLIDER_LOW, weight - 1), max(SLIDER_HIGH, weight + 1)
        look = {"layout": ipywidgets.Layout(width="320px"), "style": {"description_width": "105px"}}
        slider = ipywidgets.FloatSlider(weight, min=low, max=high, step=STEP, description=name, **look)
        slider.observe(lambda _: self._unless_quiet(lambda: self.move(edge)), "value")
        return slider

    def _set_sliders(self) -> None:
        with _quiet(self):
            for slider, weight in zip(self.sliders.children, self.explorer.loss.weights.tolist(), strict=True):
                slider.value = weight
        self.show()

    def show(self) -> None:
        """Show the loss as it stands: the curve first, which is what a moved weight is watched for."""
        found = self.explorer.shape
        self.verdict.value = say(found.words, wrong=not found.asks)
        self.curve.value = self.shape_picture(found).html()
        self.network.value = self.network_picture().html(NETWORK_WIDTH, NETWORK_HEIGHT)
        self.formula.value = f"{html.escape(self.explorer.title)}: ${self.explorer.formula}$"

    def shape_picture(self, found: explore.Shape) -> explore_plots.Picture:
        return explore_plots.shape(found, alt=f"The loss beside {' and '.join(found.references)}. {found.words}")

    def network_picture(self) -> explore_plots.Picture:
        return explore_plots.network(self.explorer.loss, alt=f"The network of {self.explorer.loss}, with its weights.")

    def training_picture(self) -> explore_plots.Picture:
        return explore_plots.training(self.trained, alt=f"Validation error against step. {self.trained.words}")

    def history_picture(self) -> explore_plots.Picture:
        generation = self.generation.value
        alt = f"Fitness and outcomes in each generation of the search. {self.explorer.told(generation)}"
        return explore_plots.history(self.explorer.history, generation, alt=alt)

    # --- in the notebook ---

    def display_loss(self) -> None:
        """The first panel; without a reader, each of its callbacks is called once before it is shown."""
        if not attended():
            self.write()
            if self.explorer.run is not None:
                raise RuntimeError(f"expected the example {self.text.value!r} to be read, got {self.verdict.value}")
            for callback in (self.choose, lambda: self.move(0), self.ones, self.reset):
                callback()
        pictures = [self.network_picture(), self.shape_picture(self.explorer.shape)]
        present(self.loss_box, explore_plots.beside(pictures))

    def display_training(self) -> None:
        """The second panel; without a reader, what the button does is done once."""
        if not attended():
            self.train()
        present(self.training_box, self.training_picture() if self.trained else "Nothing was trained yet.")

    def display_history(self) -> None:
        """The third panel, at the search's last generation."""
        if not attended():
            self.look_back()
        present(self.history_box, self.history_picture() if self.explorer.history else "There is no history.")


class _quiet:
    """Within this block callbacks of a view's widgets do nothing."""

    def __init__(self, view: View):
        self.view = view

    def __enter__(self) -> None:
        self.view._quiet = True

    def __exit__(self, *error) -> None:
        self.view._quiet = False


def _button(name: str, callback: Callable[[], None], tooltip: str, width: str) -> ipywidgets.Button:
    button = ipywidgets.Button(description=name, tooltip=tooltip, layout=ipywidgets.Layout(width=width))
    button.on_click(lambda _: callback())
    return button


def print_operators() -> None:
    """Print what an expression may hold: operators of one and of two arguments, and the leaves."""
    for arity, word in ((1, "unary"), (2, "binary")):
        formulas = [f"{name}: {formula}" for name, formula in explore.operators(arity).items()]
        print(f"{word:7}{'; '.join(formulas)}")
    print("leaves y, the label; f, the prediction; 1 and -1")
