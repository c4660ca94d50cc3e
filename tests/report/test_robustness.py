"""The robustness report: rises, verdicts, table and figure by hand; nothing is trained here."""

import pytest
from synthetic import NO, OPEN, YES, experiment, made, outcomes, runs_of_sweep

from experiments.robustness import APPEARANCE, BATCH, GROUP, INSTANCE, LAYER, OTHERS
from normres.errors import UserError
from normres.report import robustness

declared = experiment("robustness")
# Clean test error and mean rise under (contrast, brightness, color cast), (blur, noise), with which every clause holds:
# instance norm 5 - 8 = -3 points in (d), batch norm 20 - 10 = 10.
HOLDS = {
    BATCH: (0.30, (0.20, 0.10)),
    INSTANCE: (0.40, (0.05, 0.08)),
    LAYER: (0.35, (0.10, 0.10)),
    GROUP: (0.35, (0.10, 0.10)),
    "batch-instance norm": (0.30, (0.10, 0.10)),
}


def measured(results, *, without=(), seeds=3, **more):
    """Returns a run per arm and seed; at severity s the rise is s / 3 of its mean, for (1 + 2 + 3 + 4 + 5) / 3 / 5 = 1.

    `without` are corruptions that were not measured; the clean error is off by 1 point up or down, and so is the rise.
    """

    def record(variant, seed):
        clean, rises = results[variant]
        clean += 0.01 * (seed - 1)
        rise = dict.fromkeys(APPEARANCE, rises[0]) | dict.fromkeys(OTHERS, rises[1])
        curves = {
            name: [clean + (mean + (variant == BATCH) * 0.001 * (seed - 1)) * severity / 3 for severity in range(1, 6)]
            for name, mean in rise.items()
            if name not in without
        }
        final = {"train_error": 0.2, "test_error": clean if "status" not in more else None}
        return {"corrupted": curves, "final": final}

    return runs_of_sweep("robustness", "demo", lambda *_: (0.2, 0.3), seeds=seeds, record=record, **more)


def judge(runs):
    return declared.judge(declared.arms(runs))


def test_a_rise_is_the_mean_over_severities_above_the_clean_error():
    corrupted = {"contrast": [0.4, 0.4, 0.5, 0.6, 0.6], "brightness": [0.3, 0.3, 0.3, 0.3, 0.3]}
    run = made((0.2, 0.3), record={"corrupted": corrupted})
    assert robustness.severities(run, "contrast") == [0.3, 0.4, 0.4, 0.5, 0.6, 0.6]
    assert robustness.mean_error(run, ["contrast"]) == pytest.approx(0.5)
    assert robustness.rise(run, ["contrast"]) == pytest.approx(0.2)
    assert robustness.rise(run, ["contrast", "brightness"]) == pytest.approx(0.1)
    # One that was not measured leaves no mean over both.
    assert robustness.mean_error(run, ["contrast", "color_cast"]) is None
    assert robustness.severities(run, "color_cast") is None


def test_the_verdict_follows_the_rises():
    assert outcomes("robustness", measured(HOLDS)) == [YES] * 5
    exchanged = HOLDS | {BATCH: HOLDS[INSTANCE], INSTANCE: HOLDS[BATCH]}
    assert outcomes("robustness", measured(exchanged)) == [NO] * 5
    assert outcomes("robustness", measured(HOLDS, seeds=1)) == [OPEN] * 5


def test_a_network_that_reacts_less_to_everything_refutes_the_reason():
    # Instance norm 5 - 2 = 3 points, batch norm 20 - 19 = 1.  The offset of a seed is in both halves of the difference.
    verdicts = judge(measured(HOLDS | {BATCH: (0.3, (0.20, 0.19)), INSTANCE: (0.4, (0.05, 0.02))}))
    assert [one.outcome for one in verdicts] == [*[YES] * 3, NO, YES]
    assert verdicts[3].evidence.startswith(
        "Rise of the test error under contrast, brightness and color cast, minus the rise under gaussian blur and "
        "gaussian noise, at depth 8: instance norm 3.00 ± 0.00 points, batch norm 1.00 ± 0.00 points; difference "
        "+2.00 points, "
    )
    assert "difference −15.00 points" in verdicts[0].evidence


def test_the_missing_run_or_measurement_is_named():
    without = [run for run in measured(HOLDS) if run.config["model"]["norm"] != "instance"]
    verdicts = judge(without)
    assert [one.outcome for one in verdicts] == [OPEN] * 5
    assert {one.evidence for one in verdicts} == {"There is no run of instance norm."}
    runs = measured(HOLDS, without=["gaussian_noise"])
    verdicts = judge(runs)
    assert [one.outcome for one in verdicts] == [*[YES] * 3, OPEN, YES]
    assert verdicts[3].evidence.startswith(
        "No run of instance norm at depth 8 has a rise of the test error under contrast"
    )
    assert "No run of batch norm, depth 8, under every corruption." in declared.warnings(declared.arms(runs))
    for run in runs:
        run.config["data"]["corruptions"] = []
    with pytest.raises(UserError, match=r"data\.corruptions is empty, here and in every other run"):
        declared.warnings(declared.arms(runs))


def test_diverged_runs_are_in_no_rise():
    first, *_, last = judge(measured(HOLDS) + measured(HOLDS, seeds=1, status={(INSTANCE, 8): "diverged"})[1:2])
    assert first.evidence.endswith(" Diverged runs are left out: 1 of 4 runs of instance norm, depth 8.")
    assert "instance norm 5.00 ± 0.00 points" in first.evidence
    assert "Diverged runs count at the error of guessing, 90 %" in last.evidence


def test_the_figure_by_hand():
    chart = declared.main_chart(declared.arms(measured(HOLDS)))
    titles = ["contrast", "brightness", "color cast", "gaussian blur", "gaussian noise"]
    assert [panel.title for panel in chart.panels] == titles
    lines = {one.label: one for one in chart.panels[0].series}
    assert list(lines) == list(declared.variants)
    # 40 % clean, and 5 / 3 points more at each severity, each with 1 point's deviation.
    assert lines[INSTANCE].x == list(range(6))
    assert lines[INSTANCE].y == pytest.approx([40 + 5 * severity / 3 for severity in range(6)])
    assert lines[INSTANCE].bars == pytest.approx([1.0] * 6)
    noise = next(one for one in chart.panels[4].series if one.label == INSTANCE)
    assert noise.y == pytest.approx([40 + 8 * severity / 3 for severity in range(6)])
