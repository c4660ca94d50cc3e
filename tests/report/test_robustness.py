"""The robustness report on synthetic runs: rises, verdicts, table and figure by hand; nothing is trained here."""

from pathlib import Path

import pytest
from test_experiments import expand
from test_report import write_run

from experiments import robustness as experiment
from normres.errors import UserError
from normres.report import robustness
from normres.report.severities import error_against_severity
from normres.runs import config as configs
from normres.runs.results import read_runs, write_json

APPEARANCE, OTHERS = experiment.APPEARANCE, experiment.OTHERS
CORRUPTIONS = (*APPEARANCE, *OTHERS)
# Clean test error and mean rise under (contrast, brightness, color cast), (blur, noise), with which every clause holds:
# instance norm 5 - 8 = -3 points in (d), batch norm 20 - 10 = 10.
HOLDS = {
    experiment.BATCH: (0.30, (0.20, 0.10)),
    experiment.INSTANCE: (0.40, (0.05, 0.08)),
    experiment.LAYER: (0.35, (0.10, 0.10)),
    experiment.GROUP: (0.35, (0.10, 0.10)),
    experiment.BATCH_INSTANCE: (0.30, (0.10, 0.10)),
}


def errors_of(clean, rises):
    """Returns the record's errors: at severity s the rise is s / 3 of its mean, for (1 + 2 + 3 + 4 + 5) / 3 / 5 = 1."""
    rise = dict.fromkeys(APPEARANCE, rises[0]) | dict.fromkeys(OTHERS, rises[1])
    return {name: [clean + rise[name] * severity / 3 for severity in range(1, 6)] for name in CORRUPTIONS}


def write(root, found, *, seeds=((0.0, 0.0),), status=None, skip=(), corrupted=errors_of, overrides=()):
    """Writes a run per arm and seed; a seed is an offset to the clean error and one to every rise.

    `status` is of (variant, seed), `corrupted` makes the record's errors.
    """
    for arm in expand("robustness", "demo", overrides):
        fields = {name: value for name, value in configs.fields(arm.config).items() if not name.startswith("seeds.")}
        variant = experiment.COMPARISON._variant(fields)
        for seed, (offset, more) in enumerate(seeds):
            if variant in skip:
                continue
            clean, rises = found[variant][0] + offset, tuple(rise + more for rise in found[variant][1])
            now = (status or {}).get((variant, seed), "finished")
            write_run(
                root,
                "A",
                fields["model.depth"],
                (0.2, clean),
                seed=seed,
                change=fields | {"seed": seed},
                status=now,
                record={"corrupted": corrupted(clean, rises) if now == "finished" else None},
            )
    return read_runs(root)


def judge(runs):
    return experiment.judge(experiment.COMPARISON.arms(runs))


def outcomes(runs):
    return [clause.outcome for clause in judge(runs)]


# --- numbers


def test_a_rise_is_the_mean_over_severities_above_the_clean_error(tmp_path):
    run = write(tmp_path, HOLDS)[0]
    write_json(
        run.path / "record.json",
        run.record
        | {
            "final": run.record["final"] | {"test_error": 0.3},
            "corrupted": {"contrast": [0.4, 0.4, 0.5, 0.6, 0.6], "brightness": [0.3, 0.3, 0.3, 0.3, 0.3]},
        },
    )
    run = next(other for other in read_runs(tmp_path) if other.path == run.path)
    assert robustness.severities(run, "contrast") == [0.3, 0.4, 0.4, 0.5, 0.6, 0.6]
    assert robustness.mean_error(run, ["contrast"]) == pytest.approx(0.5)
    assert robustness.rise(run, ["contrast"]) == pytest.approx(0.2)
    assert robustness.rise(run, ["contrast", "brightness"]) == pytest.approx(0.1)
    # One that was not measured leaves no mean over both.
    assert robustness.mean_error(run, ["contrast", "color_cast"]) is None
    assert robustness.severities(run, "color_cast") is None


# --- verdicts


def test_the_verdict_follows_the_rises(tmp_path):
    assert outcomes(write(tmp_path / "holds", HOLDS)) == ["borne out"] * 5
    exchanged = HOLDS | {
        experiment.BATCH: HOLDS[experiment.INSTANCE],
        experiment.INSTANCE: HOLDS[experiment.BATCH],
    }
    assert outcomes(write(tmp_path / "exchanged", exchanged)) == ["not borne out"] * 5


def test_a_net_that_reacts_less_to_everything_refutes_the_reason(tmp_path):
    # Instance norm 5 - 2 = 3 points, batch norm 20 - 19 = 1.
    less = HOLDS | {experiment.BATCH: (0.3, (0.20, 0.19)), experiment.INSTANCE: (0.4, (0.05, 0.02))}
    assert outcomes(write(tmp_path, less)) == ["borne out"] * 3 + ["not borne out", "borne out"]
    assert judge(read_runs(tmp_path))[3].evidence == (
        "Rise of the test error under contrast, brightness and color cast, less the rise under gaussian blur and "
        "gaussian noise, at depth 8: instance norm 3.00 points, batch norm 1.00 points; difference +2.00 points (one "
        "seed each: no spread)."
    )


def test_a_rise_within_the_spread_cannot_be_judged(tmp_path):
    # Five points apart; standard deviation of -10, 0, 10 points is 10, the standard error sqrt(100/3 + 100/3) = 8.16.
    close = HOLDS | {experiment.BATCH: (0.3, (0.20, 0.10)), experiment.INSTANCE: (0.4, (0.15, 0.08))}
    runs = write(tmp_path, close, seeds=((0.0, -0.1), (0.0, 0.0), (0.0, 0.1)))
    assert outcomes(runs)[:3] == ["cannot be judged yet"] * 3
    assert "instance norm 15.00 ± 10.00 points, batch norm 20.00 ± 10.00 points" in judge(runs)[0].evidence
    assert "difference −5.00 ± 8.16 points (standard error; 3 and 3 seeds)" in judge(runs)[0].evidence
    # The offset of a seed is in both halves of (d), which has no spread then: 7 points against 10.
    assert outcomes(runs)[3:] == ["borne out", "borne out"]


def test_what_was_not_run_or_not_measured_is_named(tmp_path):
    runs = write(tmp_path / "without", HOLDS, skip=[experiment.INSTANCE])
    assert outcomes(runs) == ["cannot be judged yet"] * 5
    assert {clause.evidence for clause in judge(runs)} == {"There is no run of instance norm."}

    def none_of_noise(clean, rises):
        return {name: found for name, found in errors_of(clean, rises).items() if name != "gaussian_noise"}

    runs = write(tmp_path / "less", HOLDS, corrupted=none_of_noise)
    assert outcomes(runs) == ["borne out"] * 3 + ["cannot be judged yet", "borne out"]
    assert judge(runs)[3].evidence.startswith(
        "No finished run of instance norm at depth 8 was measured under contrast, brightness, color cast, gaussian blur"
    )
    page = experiment.draw(runs, tmp_path / "out")[-1].read_text()
    assert "No run of batch norm, depth 8, under every corruption." in page


def test_diverged_runs_are_in_no_rise(tmp_path):
    status = {(experiment.INSTANCE, 1): "diverged"}
    runs = write(tmp_path, HOLDS, seeds=((0.0, 0.0), (0.0, 0.0)), status=status)
    first, *_, last = judge(runs)
    assert first.evidence.endswith(" 1 of 2 runs of instance norm, depth 8 diverged and are in no rise.")
    assert "instance norm 5.00 points" in first.evidence
    assert "Diverged runs are counted at the error of guessing, 90 %" in last.evidence
    every = {(experiment.INSTANCE, seed): "diverged" for seed in (0, 1)}
    runs = write(tmp_path / "all", HOLDS, seeds=((0.0, 0.0), (0.0, 0.0)), status=every)
    assert outcomes(runs) == ["cannot be judged yet"] * 4 + ["borne out"]


def test_unlike_things_are_told_apart(tmp_path):
    write(tmp_path, HOLDS)
    runs = write(tmp_path, HOLDS, overrides={"data.preprocess": "pixel_mean"}.items())
    arms = experiment.COMPARISON.arms(runs)
    assert all(len(arm.runs) == 1 for arm in arms)
    assert len({experiment._name(arms, arm) for arm in arms}) == 10
    assert len(experiment.judge(arms)) == 10


# --- what is drawn


def test_everything_is_drawn(tmp_path):
    runs = write(tmp_path / "runs", HOLDS, seeds=((-0.01, 0.0), (0.01, 0.0)))
    out = tmp_path / "out"
    paths = experiment.draw(runs, out)
    names = ["robustness.png", "robustness.pdf", "curves.png", "curves.pdf", "table.md", "table.tex", "index.html"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    page = paths[-1].read_text()
    for number in experiment.PAPER_IMAGENET.values():
        assert f">{number:.1f}<" in page
    assert "here, 50,000 there" in page
    assert "borne out" in page
    # By hand: 40 % clean, 45 % under the first three, 48 % under two: mean (3 * 45 + 2 * 48) / 5 = 46.2 %.
    rows = {
        row[0]: row for row in robustness.table(experiment.COMPARISON.arms(runs), lambda a: a.label, CORRUPTIONS).rows
    }
    # The deviation of -1 and 1 point is 1.4 points; a rise has none.
    cells = [f"{mean} ± 1.4" for mean in ("40.0", "45.0", "45.0", "45.0", "48.0", "48.0", "46.2")]
    assert rows["instance norm, depth 8"] == ("instance norm, depth 8", "2", *cells, "6.2 ± 0.0")
    assert "color cast (%)" in paths[4].read_text()


def test_a_panel_has_the_means_and_the_seeds_of_each_severity(tmp_path):
    runs = write(tmp_path, HOLDS, seeds=((-0.02, 0.0), (0.02, 0.0)))
    arms = experiment.COMPARISON.arms(runs)
    figure = error_against_severity({experiment._name(arms, arm): arm for arm in arms}, CORRUPTIONS)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "contrast",
        "brightness",
        "color cast",
        "gaussian blur",
        "gaussian noise",
    ]
    batch, instance = panels[0].lines[:2]
    # 30 % clean, and 20 / 3 points more at each severity; 40 %, and 5 / 3.
    assert batch.get_ydata() == pytest.approx([30 + 20 * severity / 3 for severity in range(6)])
    assert instance.get_ydata() == pytest.approx([40 + 5 * severity / 3 for severity in range(6)])
    assert panels[4].lines[1].get_ydata() == pytest.approx([40 + 8 * severity / 3 for severity in range(6)])
    assert [round(place) for place in batch.get_xdata()] == list(range(6))
    bars = panels[0].collections[0].get_segments()
    assert [(bar[0][1], bar[1][1]) for bar in bars[:1]] == [pytest.approx((28, 32))]
    low, high = panels[0].get_ylim()
    assert low <= 28
    assert high >= 30 + 20 * 5 / 3 + 2
    legend = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert legend == list(experiment.VARIANTS)
    figure.canvas.draw()
    ticks = [text.get_text() for text in panels[3].get_xticklabels()]
    assert ticks == ["clean", "1", "2", "3", "4", "5"]


def test_a_sweep_that_has_only_begun_can_be_drawn(tmp_path):
    begun = {(name, 0): "running" for name in HOLDS}
    runs = write(tmp_path / "runs", HOLDS, status=begun)
    assert "cannot be judged yet" in experiment.draw(runs, tmp_path / "out")[-1].read_text()
    with pytest.raises(UserError, match=r"there is no run to report; `normres sweep --config=configs/robustness\.py`"):
        experiment.draw([], tmp_path)


def test_runs_that_name_no_corruption_are_refused(tmp_path):
    runs = write(tmp_path / "runs", HOLDS, overrides={"data.corruptions": ""}.items())
    with pytest.raises(UserError, match=r"config\.json: data\.corruptions is empty, here and in every other run"):
        experiment.draw(runs, Path(tmp_path) / "out")
