"""Renews what docs/performance.md and docs/accelerators.md draw from their JSON: the table, and the figure beside it.

python scripts/make_bench_pages.py
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import LogLocator

from normres.bench import accelerators, output
from normres.bench.step import measure
from normres.report import charts, paper

ROOT = Path(__file__).parent.parent
STEP, ACCELERATORS = (ROOT / "docs" / name for name in ("performance/step.json", "accelerators/accelerators.json"))
TICKS = (1, 1.5, 2, 3, 5, 7)  # times powers of ten

Panels = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]  # {panel: {network: {contender: quartiles}}}


def table_of_accelerators(document: dict[str, Any]) -> str:
    """Returns the table for the page, with what it was measured with above it."""
    rows = document["rows"]
    commits = sorted({row["commit"][:12] for row in rows})
    sizes = sorted({f"batch {row['batch']}, width {row['width']}, {row['dtype']}" for row in rows})
    versions = ", ".join(sorted({row["jax"] for row in rows}))
    table = accelerators.text(document, markdown=True)
    return f"{'; '.join(sizes)}; jax {versions}; commit {', '.join(commits)}.\n\n{table}\n"


def page(file: Path, table: str) -> tuple[Path, str]:
    """Returns the page of a JSON file, and its text with the table between the lines <!-- begin NAME --> and end."""
    path = file.parent.with_suffix(".md")
    begin, end = f"<!-- begin {file.stem} -->\n", f"<!-- end {file.stem} -->"
    return path, re.sub(f"{begin}.*?{end}", lambda _: f"{begin}{table}{end}", path.read_text(), count=1, flags=re.S)


def pages() -> dict[Path, str]:
    """Returns the pages' texts by their path."""
    tables = {STEP: measure.markdown, ACCELERATORS: table_of_accelerators}
    return dict(page(file, table(output.read(file, "", set()))) for file, table in tables.items())


def panels_of_step(cells: Sequence[dict[str, Any]], reference: str) -> Panels:
    """Returns the time of each contender's step relative to the reference's, a panel for each dtype."""
    panels: dict[str, dict[str, dict[str, Sequence[float]]]] = {}
    for cell in cells:
        times = cell["contenders"][reference]["step_seconds"]
        row = {one["title"]: output.quartiles(one["step_seconds"], times) for one in cell["contenders"].values()}
        panels.setdefault(f"step in {cell['dtype']}", {})[f"ResNet-{cell['depth']}, {cell['norm']} norm"] = row
    return panels


def panels_of_accelerators(rows: Sequence[dict[str, Any]], reference: str) -> Panels:
    """Returns bytes and kernels of each network's step relative to the reference's."""
    networks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in accelerators.in_order(rows):
        networks.setdefault(accelerators.name_of(row), {})[row["contender"]] = row
    panels: dict[str, dict[str, dict[str, Sequence[float]]]] = {"bytes moved": {}, "kernels": {}}
    for title, measured in (("bytes moved", "bytes"), ("kernels", "kernels")):
        for network, of in networks.items():
            if {"normres", reference} <= set(of):
                panels[title][network] = {
                    accelerators.CONTENDERS[name][0]: [of[name][measured] / of[reference][measured]] * 3
                    for name in ("normres", "flax")
                    if name in of
                }
    return panels


def draw(panels: Panels, reference: str, file: Path, log: bool) -> None:
    """Writes a PNG of ratios, on a logarithmic axis or not, in which the reference is at 1."""
    networks = list(dict.fromkeys(network for panel in panels.values() for network in panel))
    drawn = []
    for title, panel in panels.items():
        series = []
        for name in dict.fromkeys(name for row in panel.values() for name in row):
            rows = [network for network in panel if name in panel[network]]
            lower, medians, upper = zip(*(panel[network][name] for network in rows), strict=True)
            bars = np.abs(np.subtract([lower, upper], medians)).tolist()
            series.append(charts.Series(name, "line", medians, rows, bars))
        drawn.append(charts.Panel(title, series))
    figure = paper.draw(charts.Chart(file.stem, drawn, "", "", x=f"{reference} = 1", y="", rows=networks))
    for axes in figure.axes:
        axes.axvline(1, color="0.7", linewidth=0.6, zorder=0)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=TICKS))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
    with matplotlib.rc_context(paper.STYLE):
        figure.savefig(file, dpi=200, metadata={"Software": None})


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
    cells, rows = output.read(STEP, "", set())["cells"], output.read(ACCELERATORS, "", set())["rows"]
    draw(panels_of_step(cells, "torch"), "PyTorch", STEP.with_suffix(".png"), log=True)
    draw(panels_of_accelerators(rows, "flax-data"), "Flax, same data", ACCELERATORS.with_suffix(".png"), log=False)
