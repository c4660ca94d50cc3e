"""The documentation is what the code says, and its examples run."""

import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from normres import cli, norms
from normres.errors import UserError
from normres.report import paper
from normres.runs import durable, sweep

ROOT = Path(__file__).resolve().parent.parent


def test_the_norms_page_holds_the_tables_of_the_code():
    script = runpy.run_path(str(ROOT / "scripts/make_norms_tables.py"))
    parts = script["MARKERS"].search((ROOT / "docs/norms.md").read_text())
    assert parts, "the markers are gone"
    assert parts[2] == script["text"](), "run: python scripts/make_norms_tables.py"


def test_a_norm_without_documentation_has_dashes(monkeypatch):
    monkeypatch.setitem(norms.TABLE, "row", replace(norms.TABLE["batch"], over="WC", about=None))
    text = runpy.run_path(str(ROOT / "scripts/make_norms_tables.py"))["text"]()
    lines = [line for line in text.splitlines() if line.startswith("| row ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [["row", "W, C", "running averages over N", "–"], ["row", "–", "scale, bias", "–", "–"]]


def test_the_results_are_what_their_records_say(tmp_path, monkeypatch):
    """Written again from results/, the pages do not change: run `make results`."""

    def save(chart, folder, widths, kinds):
        return [durable.write(folder / f"{chart.name}-page.png", b"")]

    monkeypatch.setattr(paper, "save", save)
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "results", copy / "results")
    (copy / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/make_results.py", copy / "scripts")
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=shutil.ignore_patterns("_build", "results", "*.png", "sets"))
    shutil.copy(ROOT / "README.md", copy)
    runpy.run_path(str(copy / "scripts/make_results.py"))["main"]()
    drawn = {path.relative_to(copy) for path in (copy / "docs/results").rglob("*.*")}
    assert drawn == {path.relative_to(ROOT) for path in (ROOT / "docs/results").rglob("*.*")}
    tables = [page for page in drawn if page.suffix == ".md"]
    for page in ("README.md", "docs/results.md", "docs/signals.md", *tables):
        assert (copy / page).read_text() == (ROOT / page).read_text()
    (damaged, *_) = (copy / "results/degradation-short").glob("*.json")
    damaged.write_text(damaged.read_text().replace("0.1", "0.2"))
    with pytest.raises(UserError, match="23 of 24 records can be read"):
        runpy.run_path(str(copy / "scripts/make_results.py"))["main"]()


@pytest.mark.parametrize("folder", sorted(filter(Path.is_dir, ROOT.glob("results/*"))), ids=lambda path: path.name)
def test_every_kept_run_is_an_arm_of_its_sweep(folder):
    name, _, size = folder.name.partition("-")
    data = {} if size == "demo" else {"data.source": "binary", "data.path": "x"}
    arms = {arm.run_id for arm in sweep.expand(f"{name}:{size}", data, 4)}
    kept = {file.name.removesuffix(".run.json") for file in folder.glob("*.run.json")}
    assert kept
    assert kept <= arms


def test_a_result_is_run_again_as_far_as_it_was_run(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "main", lambda arguments: asked.append(arguments) or 1)
    again = runpy.run_path(str(ROOT / "scripts/reproduce.py"))["main"]
    assert again("degradation-short", "cifar.tar.gz", "3") == 2  # the sweep has failed
    (arguments,) = asked
    assert arguments[:2] == ["sweep", "--config=degradation:short"]
    assert {f"--again={ROOT / 'results/degradation-short'}", "--seeds=3", "--config.data.path=cifar.tar.gz"} < {
        *arguments
    }
    with pytest.raises(UserError, match=r"RESULT='degradation-shrt' is no folder of results/; did you mean"):
        again("degradation-shrt")


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")], ids=str)
def test_links_and_images_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    made = ("reference/", "sets/")  # by `make docs`
    links = [link for link in links if not link.startswith(made) and "normres/cpu" not in link]  # that may be deleted
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("file", ["README.md", "docs/norms.md", "docs/data.md", "docs/style.md", "docs/api.md"])
def test_the_examples_run(file):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(), re.S)
    assert blocks
    with jax.numpy_rank_promotion("allow"):  # as a user has it
        exec(compile("\n".join(blocks), file, "exec"), {})
