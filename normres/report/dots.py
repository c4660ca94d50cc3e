"""Final error of many variants side by side, as dots in rows: bars have no room for so many and such long names."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from normres.report.statistics import METRICS, Arm
from normres.report.style import STYLE, VARIANTS, Drawing, cross, legend_above, literal, marker_handle, new_panels
from normres.report.verdict import seeds_text

# An open marker for training and a filled one for test error, told apart in grey.
_LOOKS: dict[str, dict[str, Any]] = {
    "train_error": {"marker": "s", "markerfacecolor": "white", "markeredgecolor": VARIANTS[0][0]},
    "test_error": {"marker": "o", "markerfacecolor": VARIANTS[1][0], "markeredgecolor": VARIANTS[1][0]},
}


@matplotlib.rc_context(STYLE)
def error_per_variant(
    name: str,
    panels: Mapping[str, Mapping[str, Arm]],
    published: Mapping[str, Mapping[str, float | str]],
    variants: Sequence[str],
) -> Drawing:
    """Draws one row per variant of `variants` and one panel per network.

    Args:
      name: of the files.
      panels: by the panel's title, the arm of each variant.  The mean of the seeds that finished is a dot, the seeds
        are dashes; a cross at the right edge marks an arm with diverged runs.
      published: by network, a paper's test error of each variant in percent, or a word such as "fail", which is
        written at the right edge; all in one last panel with an axis of its own.
      variants: their names from top to bottom.
    """
    arms = [arm for panel in panels.values() for arm in panel.values()]
    titles = [*panels, *["test error in the paper"] * bool(published)]
    figure, axes_of = new_panels(titles, 0.8 + 0.17 * len(variants), x="error (%)")
    for axes in axes_of:
        _rows(axes, variants)
    own = axes_of[: len(panels)]
    for axes, panel in zip(own, panels.values(), strict=True):
        for variant, arm in panel.items():
            _arm(axes, arm, variants.index(variant))
    values = [100 * value for arm in arms for metric in METRICS for value in arm.values(metric)] or [0.0, 100.0]
    room = 0.1 * (max(values) - min(values)) or 1.0
    for axes in own:
        axes.set_xlim(max(0.0, min(values) - room), max(values) + 1.5 * room)  # room for the crosses
    handles = [
        marker_handle(label=label, **look) for look, label in zip(_LOOKS.values(), ("training", "test"), strict=True)
    ]
    handles += [marker_handle("x", "diverged")] * any(arm.diverged for arm in arms)
    if published:
        handles += _published(axes_of[-1], published, variants)
    legend_above(figure, handles)
    return Drawing(
        name,
        figure,
        "Final training and test error, one row per variant; the table has the numbers.",
        f"Error at the last step, {seeds_text(arms)} per variant: the marker is the mean, dashes are the seeds where "
        "there are several. A cross at the right edge marks diverged runs; means are over the runs that finished."
        + (" The panel of the paper’s numbers has its own axis; “fail” is an error above 20 %." if published else ""),
    )


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names the rows, the first on top, and draws a faint line along each."""
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", color="0.88", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _arm(axes: Axes, arm: Arm, row: int) -> None:
    """Draws an arm in its row."""
    for metric, properties in _LOOKS.items():
        seeds = [100 * value for value in arm.values(metric)]
        if len(seeds) > 1:
            # Taller than the marker of the mean, which would hide a small spread otherwise.
            dashes = {"color": properties["markeredgecolor"], "markersize": 8, "markeredgewidth": 0.7}
            axes.plot(seeds, [row] * len(seeds), "|", **dashes, zorder=2)
        if summary := arm.summary(metric):
            axes.plot(100 * summary.mean, row, linestyle="none", **properties, zorder=3)
    if arm.diverged:
        cross(axes, 1.0, row, axes.get_yaxis_transform(), "0.2")


def _published(axes: Axes, published: Mapping[str, Mapping[str, float | str]], names: Sequence[str]) -> list[Line2D]:
    """Draws the papers' errors and returns what explains their markers."""
    handles = []
    # Several networks stand a little apart in a row, so that equal numbers do not hide each other.
    shift = 0.16 if len(published) > 1 else 0.0
    for number, (network, errors) in enumerate(published.items()):
        colour, marker, _ = VARIANTS[(number + 2) % len(VARIANTS)]
        properties: dict[str, Any] = {"marker": marker, "markerfacecolor": "white", "markeredgecolor": colour}
        height = shift * (2 * number / max(1, len(published) - 1) - 1)
        for name, error in errors.items():
            row = names.index(name) + height
            if isinstance(error, str):
                place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "ha": "right"}
                place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # hides the row's line
                axes.text(1.0, row, literal(error), fontsize=6.5, color="0.35", style="italic", **place)
            else:
                axes.plot(error, row, linestyle="none", **properties, zorder=3)
        handles.append(marker_handle(label=f"paper, {network}", **properties))
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.18 * (high - low))  # room for the words
    return handles
