"""The pages of docs/: code runs, links lead somewhere, tables are complete, figures are drawn by the code that is there."""

import dataclasses
import importlib.util
import io
import re
import tomllib
import urllib.parse
from pathlib import Path

import PIL.Image
import pytest
import torch
import yaml
from matplotlib.figure import Figure

from evomal_core.config import DEPARTURES, SWITCHES
from evomal_core.fast import tape
from evomal_core.losses.primitives import PRIMITIVES
from evomal_core.registry import DATASETS, METHODS, MODELS
from evomal_notebooks import diagrams, landing, report

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
RUN = ("extending", "losses", "own-model")
BLOCK = re.compile(r"(?:<!-- needs ([\w ]+) -->\n)?^```python\n(.*?)^```", re.M | re.S)


def blocks(name: str) -> list[tuple[str, list[str]]]:
    """(code padded to its line in the page, the modules that it needs) of each block of Python."""
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    return [("\n" * text.count("\n", 0, m.start(2)) + m[2], (m[1] or "").split()) for m in BLOCK.finditer(text)]


@pytest.fixture
def registries(monkeypatch):
    """What a page registers is gone afterwards."""
    tables = [DATASETS, MODELS, METHODS, *PRIMITIVES.values()]
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    tape.program.cache_clear()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", RUN)
def test_code_of_a_page_runs_from_top_to_bottom(name, registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.compiler.reset()
    found, scope, ran = blocks(name), {"__name__": "page"}, 0
    with torch.random.fork_rng(devices=[]):
        for code, needed in found:
            if all(map(importlib.util.find_spec, needed)):
                exec(compile(code, f"docs/{name}.md", "exec"), scope)
                ran += 1
    assert ran >= len(found) - 1 and ran >= 3
    if name == "extending":
        assert scope["run"].status == "complete" and scope["run"].test_metric < 1
        assert str(scope["run"].loss) in scope["TEXTS"]
    if name == "own-model":
        assert (
            scope["found"].leaders and 3 <= len(scope["found"].table()) <= 5
        )  # a row or two a loss, and the trivial one
        assert scope["again"].stopped.startswith("<lambda>") and (tmp_path / "search.json").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_that_is_not_run_is_python(page):
    for code, _ in blocks(page.stem):
        compile(code, str(page), "exec")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    assert links
    for link in links:
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_stands_in_the_index():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert {page.name for page in PAGES} - {"README.md"} <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_the_table_of_departures_is_that_of_the_settings():
    text = (DOCS / "departures.md").read_text(encoding="utf-8")
    line = r"^\| `(\w+)` \| `(\w+)` \| `(\w+(?:`, `\w+)*)` \| (.+) \|$"
    rows = {m[1]: ((m[2], *m[3].split("`, `")), m[4]) for m in re.finditer(line, text, re.M)}
    assert rows.keys() == SWITCHES.keys()
    for name, (values, what) in rows.items():
        assert values == SWITCHES[name].values, name
        assert what.endswith(".") and (text.index(f"| `{name}`") < text.index("Further switches")) == (
            name in DEPARTURES
        )


@pytest.mark.parametrize("name", diagrams.DIAGRAMS)
def test_diagrams_are_there_and_drawn_by_their_code(name, tmp_path):
    path = DOCS / "figures" / f"{name}.png"
    assert f"figures/{name}.png" in (DOCS / "method.md").read_text(encoding="utf-8")
    assert path.stat().st_size < 80_000
    figure = diagrams.DIAGRAMS[name]()
    assert isinstance(figure, Figure)
    figure.savefig(drawn := io.BytesIO(), format="png", dpi=130)
    assert PIL.Image.open(path).size == PIL.Image.open(drawn).size


def test_the_drawn_network_has_a_weight_an_edge():
    written = [text.get_text() for axis in diagrams.to_network().axes for text in axis.texts]
    assert [f"$\\phi_{{{k}}}$" in written for k in range(1, 8)] == [True] * 6 + [False]


# The landing figure


@pytest.fixture(scope="module")
def found():
    return landing.findings()


def test_the_landing_figure_shows_the_committed_records(found):
    assert landing.PATH.stat().st_size < 150_000 and PIL.Image.open(landing.PATH).info["dpi"][0] == pytest.approx(
        150, abs=1
    )
    figure = landing.figure(found)
    assert PIL.Image.open(landing.PATH).size == tuple((figure.get_size_inches() * 150).astype(int))
    tests = {(run.cell.dataset, run.cell.seed): run.test_metric for run in report.collect().reference if _plain(run)}
    again = {
        run.cell.seed: run.test_metric
        for run in report.collect(reference_dir=report.REFERENCE / "robust").reference
        if _of_diabetes(run)
    }
    shown = found.trainings.query("method == 'evomal' and convention == 'fresh weights' and dataset == 'diabetes'")
    shown = shown[shown["loss_seed"] == shown["start_seed"]]
    diabetes = {seed: error for (dataset, seed), error in tests.items() if dataset == "diabetes"}
    assert again and dict(zip(shown["start_seed"], shown["error"], strict=True)) == diabetes | again
    assert dict(found.pairs["error", "evomal"]) == {
        s: error for (dataset, s), error in tests.items() if dataset == "mnist"
    }


def _of_diabetes(run) -> bool:
    return _plain(run) and run.cell.dataset == "diabetes"


def _plain(run) -> bool:
    cell = run.cell
    return (cell.method, cell.budget, str(cell.protocol)) == ("evomal", "paper", "paper") and (
        (cell.dataset, cell.model) in (landing.MNIST, landing.DIABETES)
    )


def test_the_landing_figure_is_not_older_than_the_records(found):
    assert PIL.Image.open(landing.PATH).info["Description"] == landing.description(found)


def test_its_titles_follow_the_records(found):
    first, second, third = landing.titles(found)
    assert "have less error" in first and found.mnist.high < 0
    assert f"{found.searchs.lower} of {found.searchs.n} losses" in second
    assert f"{found.error.lower} of {len(found.pairs)}" in third
    changed = dataclasses.replace(found, mnist=found.mnist.copy())
    changed.mnist["finding"] = "open"
    assert "are not shown to differ" in landing.titles(changed)[0]


# CITATION.cff


def test_the_citation_has_what_its_format_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert {"message", "title", "authors", "version", "license", "preferred-citation"} <= cited.keys()
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])
    article = cited["preferred-citation"]
    assert {"type", "title", "authors", "journal", "year", "doi"} <= article.keys()
    assert [author["family-names"] for author in article["authors"]] == ["Raymond", "Chen", "Xue", "Zhang"]
    assert (article["type"], article["year"]) == ("article", 2023) and re.fullmatch(r"10\.\d{4,}/\S+", article["doi"])
    for person in (*cited["authors"], *article["authors"]):
        assert person.keys() in ({"name"}, {"family-names", "given-names"})
