"""The robustness report on synthetic runs: rises, verdicts, table and figure by hand; nothing is trained here."""

import pytest
from synthetic import comparison, outcomes, write_run, write_sweep

from experiments.robustness import APPEARANCE, BATCH, GROUP, INSTANCE, LAYER, OTHERS
from normres.errors import UserError
from normres.report import robustness
from normres.runs.results import read_runs

declared = comparison("robustness")
YES, NO, OPEN = "borne out", "not borne out", "cannot be judged yet"
# Clean test error and mean rise under (contrast, brightness, color cast), (blur, noise), with which every clause holds:
# instance norm 5 - 8 = -3 points in (d), batch norm 20 - 10 = 10.
HOLDS = {
    BATCH: (0.30, (0.20, 0.10)),
    INSTANCE: (0.40, (0.05, 0.08)),
    LAYER: (0.35, (0.10, 0.10)),
    GROUP: (0.35, (0.10, 0.10)),
    "batch-instance norm": (0.30, (0.10, 0.10)),
}


def write(root, results, *, seeds=((0.0, 0.0),), without=(), **more):
    """Writes a run per arm and seed; a seed is an offset to the clean error and one to every rise.

    At severity s the rise is s / 3 of its mean, for (1 + 2 + 3 + 4 + 5) / 3 / 5 = 1; `without` are corruptions that
    were not measured.
    """

    def record(variant, seed):
        clean, rises = results[variant]
        offset, more_rise = seeds[seed]
        rise = dict.fromkeys(APPEARANCE, rises[0]) | dict.fromkeys(OTHERS, rises[1])
        errors = {
            name: [clean + offset + (rise[name] + more_rise) * severity / 3 for severity in range(1, 6)]
            for name in rise
            if name not in without
        }
        return {"corrupted": errors}

    def errors(variant, depth):
        return (0.2, results[variant][0])

    offsets = [offset for offset, _ in seeds]
    return write_sweep(root, "robustness", "demo", errors, seeds=offsets, record=record, **more)


def judge(runs):
    return declared.judge(declared.arms(runs))


def test_a_rise_is_the_mean_over_severities_above_the_clean_error(tmp_path):
    corrupted = {"contrast": [0.4, 0.4, 0.5, 0.6, 0.6], "brightness": [0.3, 0.3, 0.3, 0.3, 0.3]}
    (run,) = read_runs(write_run(tmp_path, (0.2, 0.3), record={"corrupted": corrupted}))
    assert robustness.severities(run, "contrast") == [0.3, 0.4, 0.4, 0.5, 0.6, 0.6]
    assert robustness.mean_error(run, ["contrast"]) == pytest.approx(0.5)
    assert robustness.rise(run, ["contrast"]) == pytest.approx(0.2)
    assert robustness.rise(run, ["contrast", "brightness"]) == pytest.approx(0.1)
    # One that was not measured leaves no mean over both.
    assert robustness.mean_error(run, ["contrast", "color_cast"]) is None
    assert robustness.severities(run, "color_cast") is None


# --- verdicts


def test_the_verdict_follows_the_rises(tmp_path):
    assert outcomes("robustness", write(tmp_path / "holds", HOLDS)) == [YES] * 5
    exchanged = HOLDS | {BATCH: HOLDS[INSTANCE], INSTANCE: HOLDS[BATCH]}
    assert outcomes("robustness", write(tmp_path / "exchanged", exchanged)) == [NO] * 5


def test_a_network_that_reacts_less_to_everything_refutes_the_reason(tmp_path):
    # Instance norm 5 - 2 = 3 points, batch norm 20 - 19 = 1.  The offset of a seed is in both halves of the difference.
    less = HOLDS | {BATCH: (0.3, (0.20, 0.19)), INSTANCE: (0.4, (0.05, 0.02))}
    clauses = judge(write(tmp_path, less, seeds=((0.0, -0.01), (0.0, 0.01))))
    assert [clause.outcome for clause in clauses] == [*[YES] * 3, NO, YES]
    assert clauses[3].evidence == (
        "Rise of the test error under contrast, brightness and color cast, less the rise under gaussian blur and "
        "gaussian noise, at depth 8: instance norm 3.00 ± 0.00 points, batch norm 1.00 ± 0.00 points; difference "
        "+2.00 ± 0.00 points (standard error; 2 and 2 seeds)."
    )
    # -1 and 1 points: standard deviation sqrt(2), standard error of the difference sqrt(2/2 + 2/2).
    assert "difference −15.00 ± 1.41 points" in clauses[0].evidence


def test_the_missing_run_or_measurement_is_named(tmp_path):
    clauses = judge(write(tmp_path / "without", HOLDS, skip={(INSTANCE, 8)}))
    assert [clause.outcome for clause in clauses] == [OPEN] * 5
    assert {clause.evidence for clause in clauses} == {"There is no run of instance norm."}
    runs = write(tmp_path / "less", HOLDS, without=["gaussian_noise"])
    clauses = judge(runs)
    assert [clause.outcome for clause in clauses] == [*[YES] * 3, OPEN, YES]
    assert clauses[3].evidence.startswith(
        "No finished run of instance norm at depth 8 was measured under contrast, brightness, color cast, gaussian blur"
    )
    page = declared.draw(runs, tmp_path / "out")[-1].read_text()
    assert "No run of batch norm, depth 8, under every corruption." in page


def test_diverged_runs_are_in_no_rise(tmp_path):
    write(tmp_path, HOLDS)
    diverged = write(tmp_path / "more", HOLDS, status={(INSTANCE, 8): "diverged"})
    first, *_, last = judge(read_runs(tmp_path))
    assert first.evidence.endswith(" 1 of 2 runs of instance norm, depth 8 diverged and are in no rise.")
    assert "instance norm 5.00 points" in first.evidence
    assert "Diverged runs count at the error of guessing, 90 %" in last.evidence
    assert outcomes("robustness", diverged) == [*[OPEN] * 4, YES]


# --- what is drawn


def test_the_table_by_hand(tmp_path):
    arms = declared.arms(write(tmp_path, HOLDS, seeds=((-0.01, 0.0), (0.01, 0.0))))
    table = declared.table(arms)
    # 40 % clean, 45 % under the first three, 48 % under two: mean (3 * 45 + 2 * 48) / 5 = 46.2 %.
    # The deviation of -1 and 1 point is 1.4 points; a rise has none.
    cells = [f"{mean} ± 1.4" for mean in ("40.0", "45.0", "45.0", "45.0", "48.0", "48.0", "46.2")]
    assert table.rows[1] == ("instance norm", "depth 8", "2", *cells, "6.2 ± 0.0")
    assert table.header[6] == "color cast (%)"
    # Wu, He 2018, figure 1 and table 1.
    assert [row[2] for row in declared.paper_table(arms).rows] == ["23.6", "28.4", "25.3", "24.1"]


def test_a_panel_has_the_means_and_the_seeds_of_each_severity(tmp_path):
    arms = declared.arms(write(tmp_path, HOLDS, seeds=((-0.02, 0.0), (0.02, 0.0))))
    figure = declared.drawing(arms).figure
    panels = [axes for axes in figure.axes if axes.get_title()]
    titles = ["contrast", "brightness", "color cast", "gaussian blur", "gaussian noise"]
    assert [axes.get_title() for axes in panels] == titles
    batch, instance = [line for line in panels[0].lines if len(line.get_xdata()) == 6][:2]
    # 30 % clean, and 20 / 3 points more at each severity; 40 %, and 5 / 3.
    assert batch.get_ydata() == pytest.approx([30 + 20 * severity / 3 for severity in range(6)])
    assert instance.get_ydata() == pytest.approx([40 + 5 * severity / 3 for severity in range(6)])
    noise = [line for line in panels[4].lines if len(line.get_xdata()) == 6]
    assert noise[1].get_ydata() == pytest.approx([40 + 8 * severity / 3 for severity in range(6)])
    assert [round(place) for place in batch.get_xdata()] == list(range(6))
    assert panels[0].lines[1].get_ydata() == pytest.approx([28, 32])
    low, high = panels[0].get_ylim()
    assert low <= 28
    assert high >= 30 + 20 * 5 / 3 + 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(declared.variants)
    figure.draw_without_rendering()
    assert [text.get_text() for text in panels[3].get_xticklabels()] == ["clean", "1", "2", "3", "4", "5"]


def test_unlike_things_are_told_apart(tmp_path):
    write(tmp_path, HOLDS)
    arms = declared.arms(write(tmp_path, HOLDS, overrides={"data.preprocess": "pixel_mean"}))
    assert all(len(arm.runs) == 1 for arm in arms)
    legend = declared.drawing(arms).figure.legends[0].get_texts()
    assert len({text.get_text() for text in legend}) == 10


def test_what_can_be_drawn(tmp_path):
    running = {(name, 8): "running" for name in HOLDS}
    assert declared.draw(write(tmp_path / "running", HOLDS, status=running), tmp_path / "out")[-1].is_file()
    clean = write(tmp_path / "clean", HOLDS, overrides={"data.corruptions": ""})
    with pytest.raises(UserError, match=r"config\.json: data\.corruptions is empty, here and in every other run"):
        declared.draw(clean, tmp_path / "out")
