"""The report of signals on small records: numbers by hand, clauses with their units, table, figures."""

import pytest
from synthetic import made

from normres.configs.signals import VARIANTS
from normres.experiments.signals import EXPERIMENT
from normres.report import paper, probes
from normres.report.arms import Arm, Setting
from normres.report.clauses import Lower, Quantity, judge


def line(step, **values):
    known = {
        "response": [1.0, 1.0, 1.0],
        "gradient": [1.0, 1.0, 1.0],
        "mean": [0.0, 0.5],
        "variance": [1.0, 4.0],
        "similarity": [0.2, 0.4],
    }
    return {"step": step, "split": "probe", **known, **values}


def run(variant="plain, batch", *, depth=8, seed=0, lines=None, **more):
    """Returns a run with these probe lines."""
    groups = 4 if "group" in variant else 8  # as in a demo, where it makes no arm of its own
    change = VARIANTS[variant] | {"model.depth": depth, "model.norm_groups": groups}
    metrics = [line(0), line(320)] if lines is None else lines
    return made((0.3, 0.4), seed=seed, name=f"{variant}-{depth}-{seed}", change=change, metrics=metrics, **more)


def test_the_numbers_by_hand():
    values = line(0, gradient=[1e-3, 1.0, 0.1], response=[1.0, 2.0, 6.0], variance=[0.5, 50.0], similarity=[0.1, 0.9])
    assert probes.gradient_ratio(values) == pytest.approx(-2)
    assert probes.early_gradient(line(0, gradient=[0.01, 1.0, 0, 0, 0, 0, 0])) == pytest.approx(-1)
    assert probes.response(values) == 3
    assert probes.growth(values) == pytest.approx(2)
    assert probes.last_similarity(values) == 0.9
    # What was not finite, or a gradient of zero, has no number.
    for broken in (line(0, gradient=[0.0, 1.0, 1.0]), line(0, gradient=[None, 1.0, 1.0])):
        assert probes.gradient_ratio(broken) is None
        assert probes.early_gradient(broken) is None
    assert probes.response(line(0, response=[1.0, None])) is None
    assert probes.probe_at(run(lines=[]), "before") is None


def test_before_training_diverged_runs_count():
    diverged = run(seed=1, status="diverged", lines=[line(0, similarity=[0.0, 0.8])])
    both = Arm("a", Setting(8), "", {}, (run(), diverged))
    before, after = (probes.probed("similarity", when=when) for when in ("before", "after"))
    assert before.by_seed(both) == {0: 0.4, 1: 0.8}
    assert after.by_seed(both) == {0: 0.4}
    assert before.text(before.by_seed(both).values()) == "0.60 ± 0.28"


def test_a_difference_has_the_unit_of_its_quantity():
    def grid(unit):
        arms = {}
        for name, values in {"a": (1.0, 1.1), "b": (3.0, 3.2)}.items():
            runs = [run(seed=seed, lines=[line(0, similarity=[0.0, value])]) for seed, value in enumerate(values)]
            arms[name, Setting(8)] = Arm(name, Setting(8), "", {}, tuple(runs))
        (verdict,) = judge([(Lower("(a)", "a", "b", probes.probed("number", unit=unit)), arms)])
        return verdict.evidence

    assert grid("orders of magnitude").startswith(
        "Number at depth 8: a 1.05 ± 0.07 orders of magnitude, b 3.10 ± 0.14 orders of magnitude; difference −2.05 "
        "orders of magnitude, 95 % interval"
    )
    assert "difference −2.05, 95 %" in grid("")
    assert "a 105.00 ± 7.07 %" in grid("%")
    assert "difference −205.00 points, 95 %" in grid("%")
    assert Quantity("loss", "test_loss", unit="nats").scale == 1


def sweep(seeds=3):
    """Returns runs of every variant at two depths with which every clause holds."""
    runs = []
    for variant in VARIANTS:
        form, norm = variant.split(", ")
        for depth in (8, 20):
            for seed in range(seeds):
                jitter = 0.01 * seed
                gradient = [10.0 ** (depth / 10 if form == "plain" else 0), 1.0, 1.0]
                gradient[0] *= {"instance": 10.0}.get(norm, 1.0) * (1 + jitter)
                similarity = [0.2, {"layer": 0.9}.get(norm, 0.3) + jitter]
                variance = [1.0, (1e6 if norm == "none" else 10.0) * (1 + jitter)]
                before = line(0, gradient=gradient, similarity=similarity, variance=variance)
                response = [(2.0 if form == "plain" else 1.0) - depth / 100 + jitter] * 3
                lines = [before, line(320, response=response)]
                runs.append(run(variant, depth=depth, seed=seed, lines=lines))
    return runs


def test_the_verdict_follows_the_probes():
    verdicts = EXPERIMENT.judge(EXPERIMENT.arms(sweep()))
    assert [verdict.outcome for verdict in verdicts] == ["supported"] * 7
    assert "plain, batch 2.00 ± 0.00 orders of magnitude" in verdicts[0].evidence
    open_ = EXPERIMENT.judge(EXPERIMENT.arms(sweep(seeds=1)))
    assert {verdict.outcome for verdict in open_} == {"cannot be judged yet"}


def test_the_figures_by_hand():
    made = EXPERIMENT.charts([], EXPERIMENT.arms(sweep()))
    assert [chart.name for chart in made] == [
        "signals", "response", "variance", "mean", "similarity", "along-training", "curves",
    ]  # fmt: skip
    first = made[0]
    titles = [f"{form}, {when} training" for when in ("before", "after") for form in ("plain", "residual")]
    assert [panel.title for panel in first.panels] == titles
    assert first.labels == ["batch", "group", "layer", "instance", "none"]
    batch = first.panels[0].series[0]
    assert (list(batch.x), [round(y, 2) for y in batch.y]) == ([1, 2, 3], [101.0, 1.0, 1.0])  # the largest depth, mean
    mean = made[3].panels[2].series[0]
    assert mean.y == [0.0, 0.25]  # 0.5 over a deviation of 2
    assert paper.draw(first).axes[0].get_yscale() == "log"
    # An axis of no percentages does not end at 100.
    assert paper.draw(made[2]).axes[0].get_ylim()[1] > 1e6


def test_a_logarithmic_figure_has_the_geometric_mean_of_the_table():
    runs = [run(seed=seed, lines=[line(0, gradient=[value] * 3)]) for seed, value in enumerate((1.0, 100.0))]
    chart = probes.over_depth("x", probes.FIGURES["gradient"], EXPERIMENT.arms(runs))
    assert chart.panels[0].series[0].y == pytest.approx([10.0] * 3)
    assert "geometric mean over the seeds" in chart.caption


def test_a_run_that_was_not_probed_is_named():
    arms = EXPERIMENT.arms([*sweep(seeds=1)[:-1], run("residual, none", depth=20, lines=[])])
    assert EXPERIMENT.missing(arms) == ["residual, none, depth 20, probed"]
    assert EXPERIMENT.judge(arms)[1].evidence.startswith("No run of residual, none at depth 20 has a growth")
    EXPERIMENT.charts([], arms)
    for chart in EXPERIMENT.charts([], EXPERIMENT.arms([run("residual, none", depth=20, lines=[])])):
        paper.draw(chart).draw_without_rendering()  # a logarithmic one has no numbers yet
