"""The numbers in the figures by hand, and the files that are drawn of them."""

from dataclasses import replace

import pytest
from synthetic import arm, experiment, made, runs_of_sweep

from normres.report import charts, figures, interactive, paper
from normres.report.arms import one_of_each_seed, run_id, seeds_text
from normres.report.charts import Series

degradation = experiment("degradation")
PLAIN = {"model.shortcut": "none"}


def lines(*errors, split="test"):
    return [{"step": 10 * n, "split": split, "error": error} for n, error in enumerate(errors)]


def curves(*runs):
    """Returns the training curves of runs, in one panel."""
    return figures.training_curves({"A": degradation.arms(runs)})


def close(*values):
    return pytest.approx(values)


def test_means_seeds_and_crosses_by_hand():
    # Deviation of -1 and 1 points: sqrt(2).  A mean of one seed has neither a bar nor a seed beside it.
    two = arm("A", 20, [0.29, 0.31, 0.5], status={2: "diverged"})
    mean, seeds, cross = figures.means_and_seeds("a", [(20, two), (56, arm("A", 56, [0.4]))], "test_error")
    assert (mean.kind, mean.x, mean.y, mean.bars) == ("line", [20, 56], close(30, 40), close(2**0.5, 0))
    assert mean.texts == ["A, depth 20: mean 30.00 % of 2 seeds", "A, depth 56: mean 40.00 % of 1 seed"]
    assert (seeds.kind, seeds.x, seeds.y, seeds.bars) == ("points", [20, 20], close(29, 31), [0, 0])
    assert seeds.texts == ["A20-0: seed 0, 29.00 %", "A20-1: seed 1, 31.00 %"]
    assert cross == Series("a", "cross", [20], [None], [0], ["A20-2: diverged"])
    sideways = figures.means_and_seeds("a", [("row", two)], "test_error", sideways=True)
    assert [(one.x, one.y) for one in sideways] == [
        (close(30), ["row"]),
        (close(29, 31), ["row", "row"]),
        ([None], ["row"]),
    ]


def test_error_over_depth():
    runs = [made((e, e + 0.1), seed=s, change=PLAIN) for s, e in enumerate((0.3, 0.5))]
    runs += [made((0, 0), status="diverged", change=PLAIN | {"model.depth": 56}), made((0.2, 0.3))]
    chart = degradation.main_chart(degradation.arms(runs))
    assert (chart.name, chart.x, chart.log_x) == ("degradation", "depth (layers)", True)
    training, test, published = chart.panels
    assert [panel.title for panel in chart.panels] == ["training", "test", "test, in the paper"]
    assert [(one.label, one.kind) for one in test.series] == [
        ("plain", "line"),
        ("plain", "points"),
        ("plain", "cross"),
        ("residual (A)", "line"),
    ]
    assert (training.series[0].y, test.series[0].y, test.series[3].y) == (close(40), close(50), close(30))
    assert published.own_scale
    assert published.series[0].y == [8.75, 7.51, 7.17, 6.97, 6.61, 7.93]
    assert chart.ticks == [14, 20, 32, 44, 56, 110, 1202]
    assert chart.places(test) == [14, 56]
    assert chart.edge(test) == pytest.approx(60 * 1.08)  # above the worst seed


def test_another_data_sets_numbers_would_stretch_the_axis():
    preactivation = experiment("preactivation")
    chart = preactivation.main_chart(preactivation.arms(runs_of_sweep("preactivation", "demo", lambda *_: (0.1, 0.2))))
    # Lines are of one kind of block: of the paper's networks, 110 layers are basic, and 164 and 1001 are bottleneck.
    assert [one.y for one in chart.panels[2].series] == [[6.61], [6.37], [5.93, 7.61], [5.46, 4.92]]
    # Ours and the paper's line have one label, so one look.
    assert {one.label for one in chart.panels[2].series[:2]} == {one.label for one in chart.panels[1].series}
    short = preactivation.arms(runs_of_sweep("preactivation", "short", lambda *_: (0.1, 0.2)))
    assert {label: [arm.setting.at for arm in line] for label, line in preactivation.along(short).items()} == {
        "original": [110],
        "full pre-activation": [110],
        "original, bottleneck": [164],
        "full pre-activation, bottleneck": [164],
    }


def test_copies_of_a_run_are_one_seed():
    copies = replace(arm("A", 20, [0.3, 0.4]), runs=(*arm("A", 20, [0.3, 0.4]).runs, made((0.3, 0.3), name="copy")))
    mean, seeds = figures.means_and_seeds("a", [(20, copies)], "test_error")
    assert (mean.y, mean.texts) == (close(35), ["A, depth 20: mean 35.00 % of 2 seeds"])
    assert (seeds.y, seeds.texts[0]) == (close(30, 40), "A20-0, copy: seed 0, 30.00 %")
    assert seeds_text([copies]) == "2 seeds"
    curve = figures.training_curves({"A": [copies]}).panels[0].series[0]
    assert "mean of 2 runs" in curve.texts[0]
    assert [run_id(run) for run in one_of_each_seed(copies.runs)] == ["A20-0", "A20-1"]


def test_a_row_per_variant():
    shortcuts = experiment("shortcuts")
    identity, plain, b, c, *_ = shortcuts.variants
    runs = [made((0.3, 0.5), seed=s, change={"model.gate_bias": 0.0}) for s in (0, 1)]
    runs += [made((0, 0), status="diverged", change=PLAIN | {"model.gate_bias": 0.0})]
    chart = shortcuts.main_chart(shortcuts.arms(runs))
    ours, published = chart.panels
    assert [(one.label, one.kind, one.x, one.y) for one in ours.series if one.kind != "points"] == [
        ("training error", "line", close(30), [identity]),
        ("training error", "cross", [None], [plain]),
        ("test error", "line", close(50), [identity]),
        ("test error", "cross", [None], [plain]),
    ]
    assert chart.rows[:3] == [identity, plain, c]  # B was neither run nor is it in the paper's table
    assert b not in chart.rows
    assert published.series[0].x[:3] == [6.61, 12.22, 12.35]  # "fail" has no place


def test_a_curve_is_the_mean_over_seeds_at_shared_steps():
    runs = [made((0.4, 0.5), seed=s, metrics=lines(*e)) for s, e in enumerate(([0.8, 0.6, 0.4], [0.6, 0.5]))]
    diverged = made((0, 0), seed=2, status="diverged", metrics=lines(0.9, 0.95, None, split="train"))
    chart = curves(*runs, diverged)
    curve, thin, cross = chart.panels[0].series
    assert (curve.kind, curve.x, curve.y) == ("curve", [0, 10], close(70, 55))
    assert curve.texts[1] == "residual (A), depth 14, test error, mean of 2 runs: 55.00 % at step 10"
    assert (thin.kind, thin.x, thin.y) == ("thin", [0, 10], close(90, 95))
    assert (cross.kind, cross.x, cross.y) == ("cross", [10], [None])
    assert chart.largest == 100  # twice the final 50 %
    of_losses = replace(chart, unit="", largest=3.0, panels=[replace(chart.panels[0], series=[curve])])
    assert paper.draw(of_losses).axes[0].get_ylim() == (0, 3)  # and not as high as the first steps
    assert curves(made((0.4, 0.5))).panels[0].series[1].x == list(range(10, 321, 10))
    long = [(n % 2) / 2 for n in range(1, 2 * figures.CURVE_POINTS + 2)]
    (blocks,) = curves(made((0.4, 0.5), metrics=lines(*long, split="train"))).panels[0].series
    assert blocks.x[:2] == [20, 50]  # the last steps of blocks of three
    assert blocks.x[-1] == 10 * (len(long) - 1)
    assert blocks.y[:2] == close(100 / 3, 50 / 3)  # of 50, 0, 50 and of 0, 50, 0 percent


# --- drawn


@pytest.fixture
def chart():
    runs = [made((e, e), seed=s, change=PLAIN) for s, e in enumerate((0.29, 0.31))]
    runs += [made((0.3, 0.4), change={"model.depth": 56}), made((0, 0), status="diverged", change={"model.depth": 20})]
    return degradation.main_chart(degradation.arms(runs))


def test_print_has_the_numbers_of_the_chart(chart):
    figure = paper.draw(chart)
    training, _, published = figure.axes
    markers = {line.get_marker(): line for line in training.lines}
    assert markers["o"].get_ydata() == close(30)
    assert list(markers["."].get_ydata()) == close(29, 31)
    assert list(markers["x"].get_xdata()) == [20]
    (bar,) = (c.get_segments()[0] for c in training.collections)
    assert [end[1] for end in bar] == close(30 - 2**0.5, 30 + 2**0.5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "residual (A)"]
    assert published.lines[0].get_color() == markers["s"].get_color()  # ours and the paper's residual network
    for width, (inches, _) in paper.WIDTHS.items():
        assert paper.draw(chart, width).get_figwidth() == inches


def test_the_page_has_the_numbers_of_the_chart(chart):
    drawn = interactive.figure(chart)
    row = interactive.figure(
        replace(chart, rows=["plain"], panels=[charts.Panel("", [Series("paper", "points", [6.61], ["plain"])])])
    )
    assert row["data"][0]["hovertemplate"].startswith("%{y}: %{x:.2f} %")
    plain = [trace for trace in drawn["data"] if trace["name"] == "plain" and trace["xaxis"] == "x"]
    assert [(trace["mode"], trace["y"]) for trace in plain] == [
        ("lines+markers", close(30)),
        ("markers", close(29, 31)),
    ]
    assert plain[0]["error_y"]["array"] == close(2**0.5)
    assert plain[1]["text"] == [
        "depth=14,shortcut=none,seed=0: seed 0, 29.00 %",
        "depth=14,shortcut=none,seed=1: seed 1, 31.00 %",
    ]
    cross = next(trace for trace in drawn["data"] if trace["marker"]["symbol"] == "x-thin-open")
    assert (cross["x"], cross["y"]) == ([20], close(31 * 1.08))
    # One look in print and on the page, and one entry of the legend for each label.
    assert plain[0]["marker"]["color"] == paper.VARIANTS[0][0]
    assert sum(trace["showlegend"] for trace in drawn["data"]) == 2
    assert drawn["layout"]["xaxis"]["type"] == "log"
    # Training and test have one scale, the paper's panel its own.
    assert [drawn["layout"][f"yaxis{n}"].get("matches") for n in ("", 2, 3)] == [None, "y", None]


def test_bars_and_the_rows_of_all_panels_lie_within_the_axes():
    lines = [Series("a", "line", [1, 2], [20.0, 48.0], [1.0, 14.0])]
    over = charts.Chart("x", [charts.Panel("", lines)], "", "", "x", ticks=[1, 2])
    assert paper.draw(over).axes[0].get_ylim()[1] >= 62
    panels = [charts.Panel(title, [Series("a", "line", [x], ["r"])]) for title, x in (("8", 40.0), ("38", 70.0))]
    rows = charts.Chart("x", [*panels, charts.Panel("paper", lines[:0], own_scale=True)], "", "", "x", rows=["r"])
    first, second, published = paper.draw(rows).axes
    (low, high) = first.get_xlim()
    assert second.get_xlim() == (low, high) != published.get_xlim()
    assert low < 40 < 70 < high
    assert [interactive.figure(rows)["layout"][f"xaxis{n}"].get("matches") for n in ("", 2, 3)] == [None, "x", None]


def test_dollars_are_no_mathematics():
    panel = charts.Panel("$x", [Series("$a_b$", "line", [3.0], ["$r^$"])])
    paper.draw(charts.Chart("d", [panel], "", "", "x", rows=["$r^$"])).draw_without_rendering()


def test_names_on_the_axis_have_room():
    # On a logarithmic axis from 20 to 1202, an eighth of the length is a factor of 1.63.
    assert charts.named_ticks([20, 32, 44, 56, 110, 1202], log=True) == [1202, 110, 56, 20]
    assert charts.named_ticks([1], log=True) == [1]
    assert charts.named_ticks([0, 1, 2], log=False) == [2, 1, 0]


def test_long_names_of_rows_leave_room_for_the_panels():
    names = [f"a variant with a long name, number {number}" for number in range(12)]
    panels = {f"depth {depth}": {name: arm(name, depth, [0.1, 0.2]) for name in names} for depth in (20, 56)}
    chart = figures.error_per_variant("x", panels, {"depth 110": dict.fromkeys(names, 6.61)}, names)
    for width, times in (("column", 3), ("page", 1)):
        figure = paper.draw(chart, width)
        figure.draw_without_rendering()  # warns, which is an error here, where panels collapse
        assert figure.axes[0].get_position().width > 0.2
        named = [axes for axes in figure.axes if axes.yaxis.get_tick_params()["labelleft"]]
        assert len(named) == times


def test_long_titles_and_a_single_panel_of_long_names_keep_apart():
    words = "training, post order, shortcut none, depth 20, steps 12,500"
    panels = [charts.Panel(f"{words}, {number}", [Series("a", "line", [1], [20.0])]) for number in range(3)]
    figure = paper.draw(charts.Chart("x", panels, "", "", "x", ticks=[1]))
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 < boxes[2].x0
    assert boxes[2].x1 < figure.bbox.x1
    assert boxes[0].y1 < figure.legends[0].get_window_extent().y0
    notes = interactive.figure(charts.Chart("x", panels, "", "", "x"))["layout"]["annotations"]
    assert all(len(line) < 40 for note in notes for line in note["text"].split("<br>"))
    names = [f"{words}, {number}" for number in range(20)]
    rows = charts.Chart("x", [charts.Panel("", [Series("a", "line", [20.0] * 20, names)])], "", "", "x", rows=names)
    for width in paper.WIDTHS:
        figure = paper.draw(rows, width)
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().width > 0.4
