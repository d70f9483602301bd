"""Searches that are watched: a curve that grows, and a search that can be stopped, interrupted and resumed.

    from evomal_notebooks.explore_live import live_search

    search = live_search([(task, model)], config, seed=0)    # in a notebook
    search.result.loss

`Stop` ends the search after the generation; where it runs in a cell, the kernel's interrupt ends it at once. Both keep its
state, from which `Resume` or `search.run()` goes on. A search that was stopped and resumed ends like one that was not.
"""

import copy
import html
import math
import threading
from collections.abc import Callable, Sequence

import ipywidgets
from IPython import get_ipython
from IPython.display import display

import evomal_core as ec
from evomal_core.losses.handcrafted import task_loss
from evomal_core.training.fitness import fitness

from . import explore_plots, report

WIDGET = "application/vnd.jupyter.widget-view+json"


class _Paused(Exception):
    """Ends `ec.search` after a generation."""


def _pause(state: ec.SearchState) -> None:
    raise _Paused


class LiveSearch:
    """A search, a generation at a time.

    Attributes:
        state: after the last generation that was finished; an interrupted generation leaves no trace in it.
        result: what the search found; None before its end.
        running: is it searching now?

    Args:
        problems, config, seed, method, state: as for `ec.search`.
    """

    def __init__(
        self,
        problems: Sequence,
        config: ec.Config,
        seed: int = 0,
        method: str = "evomal",
        state: ec.SearchState | None = None,
    ):
        self.problems, self.config, self.seed, self.method = problems, config, seed, method
        self.state = ec.METHODS[method].state() if state is None else state
        self.result: ec.Result | None = None
        self._stopping, self._running = threading.Event(), threading.Lock()
        self._baseline: float | None = None

    @property
    def running(self) -> bool:
        return self._running.locked()

    @property
    def generations(self) -> int:
        """How many generations there are at most; 1 of a method without generations."""
        count = ec.METHODS[self.method].generations
        return count(self.config) if count else 1

    @property
    def baseline(self) -> float:
        """Fitness of the task loss, judged like a candidate."""
        if self._baseline is None:
            losses = [task_loss(self.problems[0][0])]
            self._baseline = fitness(losses, self.problems, self.config, self.seed)[0]
        return self._baseline

    def stop(self) -> None:
        """Let the search end after the generation that is under way."""
        self._stopping.set()

    def run(self, seen: Callable[[], None] = lambda: None) -> ec.Result | None:
        """Search until the end, until `stop`, or until an interrupt; calls `seen` after each generation.

        Returns:
            The result at the end; None if there are generations left, which another call goes on with.

        Raises:
            RuntimeError: it is searching already, in another thread.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("expected a search that is not running, but it is searching already")
        self._stopping.clear()
        try:
            while self.result is None and not self._stopping.is_set():
                self._advance()
                seen()
        except KeyboardInterrupt:
            pass  # what was asked for; the state is that of the last finished generation
        finally:
            self._running.release()
        return self.result

    def _advance(self) -> None:
        """One generation, or, behind the last one, the result. Anything that cuts it short leaves the state as it was."""
        before = copy.deepcopy(self.state)
        try:
            self.result = ec.search(self.problems, self.config, self.seed, self.method, self.state, _pause)
        except _Paused:
            pass
        except BaseException:
            self.state = before
            raise

    @property
    def words(self) -> str:
        """How far the search is, as a sentence."""
        done, best = self.state.generation, self.state.best_fitness
        best = report.number(best) if math.isfinite(best) else "none"
        what = f"{done} of {self.generations} generations, best fitness {best}, baseline {report.number(self.baseline)}"
        if self.result is not None:
            return f"The search has ended: {what}." + (f" It found {self.result.loss}." if self.result.loss else "")
        if self.running:
            return f"The search is running: {what}."
        return f"The search {'has stopped, and can be resumed' if done else 'has not begun'}: {what}."

    def picture(self) -> explore_plots.Picture:
        """The curve so far."""
        task = self.problems[0][0].name
        alt = (
            f"Best fitness so far and median of each generation of a search on {task}, with the baseline. {self.words}"
        )
        title = f"{task}: {self.method}, seed {self.seed}"
        return explore_plots.live(self.state.history, self.generations, self.baseline, title, alt=alt)


class LiveView:
    """A `LiveSearch` under the mouse: the curve, a sentence, Stop and Resume."""

    def __init__(self, search: LiveSearch):
        self.search = search
        self.curve, self.said = ipywidgets.HTML(), ipywidgets.HTML()
        self.stop_button = ipywidgets.Button(description="Stop", icon="stop", tooltip="after this generation")
        self.resume_button = ipywidgets.Button(description="Resume", icon="play", tooltip="from the last generation")
        self.stop_button.on_click(lambda _: self.stop())
        self.resume_button.on_click(lambda _: self.resume())
        buttons = ipywidgets.HBox([self.stop_button, self.resume_button])
        self.box = ipywidgets.VBox([buttons, self.said, self.curve])
        self.thread: threading.Thread | None = None
        self.refresh()

    def refresh(self) -> None:
        """Show the search as it is now."""
        self.said.value = html.escape(self.search.words)
        self.curve.value = self.search.picture().html()
        self.stop_button.disabled = not self.search.running
        self.resume_button.disabled = self.search.running or self.search.result is not None

    def run(self) -> None:
        """Search in this cell."""
        self.search.run(self.refresh)
        self.refresh()

    def stop(self) -> None:
        self.search.stop()
        self.stop_button.disabled = True

    def resume(self) -> None:
        """Go on in a thread, so that the notebook can be used meanwhile."""
        if not self.search.running:
            self.thread = threading.Thread(target=self.run, daemon=True)
            self.resume_button.disabled, self.stop_button.disabled = True, False
            self.thread.start()


def attended() -> bool:
    """Does a front end with a reader ask for this cell? Papermill, nbconvert and nbval do not let a cell ask for input."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", False))


def present(box: ipywidgets.Widget, picture: explore_plots.Picture | str, handle=None):
    """Display widgets, and the picture that stands for them on pages without any; without a reader the picture alone.

    Args:
        picture: or a text, where there is nothing to be seen yet.
        handle: what an earlier call returned, whose display is replaced.

    Returns:
        The handle of the display; None outside a notebook.
    """
    if get_ipython() is None:
        return None
    data, metadata = ({"text/plain": picture}, {}) if isinstance(picture, str) else picture.bundle()
    if attended():
        data |= {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": box.model_id}}
    if handle is None:
        return display(data, metadata=metadata, raw=True, display_id=True)
    handle.update(data, metadata=metadata, raw=True)
    return handle


def live_search(
    problems: Sequence,
    config: ec.Config,
    seed: int = 0,
    method: str = "evomal",
    state: ec.SearchState | None = None,
    wait: bool | None = None,
) -> LiveSearch:
    """Search for a loss and watch it: as `ec.search`, with a curve that grows, the baseline's line, Stop and Resume.

    Args:
        wait: True searches in this cell, which the kernel's interrupt ends at once; False searches in a thread, so that the
            cell returns at once and Stop is heard meanwhile. None is False where there is a reader.

    Returns:
        The search, with its state and, at its end, its result.
    """
    search = LiveSearch(problems, config, seed, method, state)
    view = LiveView(search)
    handle = present(view.box, search.picture()) if attended() else None
    if wait is False or (wait is None and handle):
        view.resume()
        return search
    view.run()
    present(view.box, search.picture(), handle)
    return search
