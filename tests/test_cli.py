"""End to end, as a user has it: train, kill, resume, sweep, report, and every mistake as one line."""

import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from normres import cli
from normres.runs import machine, results
from normres.training.programs import Programs

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "--config.model.depth=8",
    "--config.model.width=4",
    "--config.train.steps=12",
    "--config.train.batch_size=16",
    "--config.train.eval_batch_size=640",
    "--config.data.fraction=0.05",
    "--config.train.log_every=2",
    "--config.train.eval_every=6",
    "--config.train.checkpoint_every=4",
    "--config.optim.warmup_steps=2",
    "--config.train.dtype=float32",
]
PLAIN = "--config.train.ops=plain"  # which compiles faster
SMALL = f"--config.model.module={ROOT / 'tests/runs/small_network.py'}:Net"  # which compiles fastest


def normres(*arguments):
    return cli.main([str(argument) for argument in arguments])


def train(workdir, *more):
    return normres("train", "--config=base:demo", f"--workdir={workdir}", *TINY, *more)


def as_process(workdir, *more, before=("env", "--default-signal=HUP,INT")):
    """Starts the command in a process of its own, which can be killed, with the flags that a user's has."""
    command = [sys.executable, "-m", "normres", "train", "--config=base:demo", f"--workdir={workdir}", *TINY, SMALL]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    # Who runs the tests in the background may have had signals ignored.
    return subprocess.Popen([*before, *command, *more], cwd=ROOT, **pipes)


def wait(process, condition):
    """Waits until the condition holds, while the process works on."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before that"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "one"
    assert train(workdir, PLAIN) == 0
    return workdir


def test_a_run_leaves_its_whole_story(finished):
    run = results.read_run(finished)
    record = run.record
    assert (record["status"], record["step"], record["steps"]) == ("finished", 12, 12)
    # Stem 108, stages 288 + 864 + 3,456, norms 2 * (4 + 2 * (4 + 8 + 16)), classifier 170.
    assert (record["seed"], record["dtype"], record["parameters"]) == (0, "float32", 5_006)
    assert record["data"]["train_examples"] == 128
    assert {"python", "jax", "flax", "normres"} <= run.attempt["versions"].keys()
    assert run.attempt["device"]["platform"] == "cpu"
    assert 0 < record["final"]["test_error"] < 1
    assert record["best_test_error"] == min(run.series("test", "error")[1])
    assert record["final"].keys() == {f"{s}_{m}" for s in ("train", "test") for m in ("loss", "error", "top5_error")}
    assert run.field("model.depth") == 8
    assert run.series("train", "loss")[0] == [2, 4, 6, 8, 10, 12]
    assert run.series("test", "error")[0] == [6, 12]
    for metric in ("loss", "gradient_norm", "parameter_norm", "top5_error", "learning_rate"):
        assert np.isfinite(run.series("train", metric)[1]).all(), metric
    averages, warning = record["warnings"]
    assert averages.endswith("the running averages are still 28% of their initial values")
    assert warning.startswith(
        "config.recipe='demo' is edited (in brackets, its own): optim.warmup_steps=2 (120), train.batch_size=16 (64)"
    )
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["step_000000012"]
    assert "--config.train.steps=12" in (finished / "README.md").read_text()


def test_a_finished_run_is_left_alone(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert train(finished, PLAIN) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.iterdir()}


def test_told_to_stop_and_killed_and_started_again_it_ends_as_if_nothing_happened(tmp_path):
    long = ("--config.train.steps=200", "--config.train.eval_every=50", "--config.train.checkpoint_every=20")
    straight, disturbed = tmp_path / "straight", tmp_path / "disturbed"
    _, said = (process := as_process(straight, *long)).communicate(timeout=300)
    assert process.returncode == 0, said
    process = as_process(disturbed, *long)
    wait(process, lambda: len(results.read_metrics(disturbed)) >= 3)
    # Another process must not train in the same directory meanwhile.
    assert train(disturbed, *long, SMALL) == 2
    process.send_signal(signal.SIGUSR1)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "stopped by SIGUSR1 at step" in said
    assert "goes on from there" in said
    assert said.count("\n") == 1
    step = results.read_run(disturbed).record["step"]
    assert (disturbed / f"checkpoints/step_{step:09d}/normres_manifest.json").exists()
    process = as_process(disturbed, *long)
    wait(process, lambda: (disturbed / f"checkpoints/step_{(step // 20 + 2) * 20:09d}/normres_manifest.json").exists())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed = results.read_run(disturbed)
    assert (killed.record["status"], killed.status) == ("running", "interrupted")
    _, said = (process := as_process(disturbed, *long)).communicate(timeout=300)
    assert process.returncode == 0, said
    resumed, expected = results.read_run(disturbed), results.read_run(straight)
    assert [attempt["end"] for attempt in resumed.record["attempts"]] == ["interrupted", None, "finished"]
    assert resumed.metrics == expected.metrics
    assert resumed.record["final"] == expected.record["final"]


def wait_until_caught(process, number):
    """Waits until the process handles a signal, or holds it back until it does; before, Python itself starts."""

    def is_caught():
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigBlk"))]
        return any(mask >> (number - 1) & 1 for mask in masks)

    wait(process, is_caught)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("SIGTERM", 0.0), ("SIGHUP", 0.3), ("SIGINT", 1.0)],
)
def test_a_signal_at_the_start_ends_it_in_one_line(name, seconds, tmp_path):
    number = getattr(signal, name)
    process = as_process(tmp_path / "new")
    if number != signal.SIGINT:  # which Python handles from the beginning
        wait_until_caught(process, number)
    time.sleep(seconds)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == (130 if name == "SIGINT" else 75)
    assert said == f"normres: stopped by {name}; the same command starts again\n"
    assert not list(tmp_path.glob("new/claim.json"))


def test_under_nohup_a_hangup_is_ignored(tmp_path):
    process = as_process(tmp_path / "new", before=["nohup"])
    wait_until_caught(process, signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 75
    assert "stopped by SIGTERM" in said


def test_a_reader_that_leaves_is_no_error(tmp_path):
    command = f"{sys.executable} -m normres show --config=base --fields | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_version(capsys):
    with pytest.raises(SystemExit) as left:
        normres("--version")
    assert (left.value.code, capsys.readouterr().out) == (0, f"normres {importlib.metadata.version('normres')}\n")


def test_another_configs_directory_is_not_touched(finished, capsys):
    before = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    assert train(finished, PLAIN, "--config.model.depth=14", "--config.seed=3") == 2
    said = capsys.readouterr().err
    assert "config.model.depth is 8 there and 14 here, config.seed is 0 there and 3 here" in said
    assert before == {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["thesis.tex", "README.md"])
def test_a_directory_of_other_things_is_not_used(name, tmp_path, capsys):
    (tmp_path / name).write_text("years of work")
    assert train(tmp_path) == 2
    assert f"not empty and holds no run (it has {name!r})" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "years of work"


def test_sweep_skips_what_is_done_and_report_draws_it(tmp_path, capsys):
    workdir, rates = tmp_path / "sweep", "--vary=optim.learning_rate=0.1,0.2"
    sweep = ["sweep", "--config=base:demo", rates, f"--workdir={workdir}", "--workers=1", *TINY, SMALL]
    # One damaged arm does not stop the others, and what it failed of goes when it succeeds.
    normres(*sweep, "--list")
    damaged = workdir / capsys.readouterr().out.split()[2]
    damaged.mkdir(parents=True)
    (damaged / "config.json").write_text("{")
    assert normres(*sweep) == 1
    first = capsys.readouterr().out
    assert first.count("finished: ") == 1, first
    assert "1 of 2 arms done, 1 set aside" in first
    assert "not readable, and nothing else says which run this is" in (damaged / "error.txt").read_text()
    (damaged / "config.json").unlink()
    assert normres(*sweep) == 0
    assert not (damaged / "error.txt").exists()
    first = capsys.readouterr().out
    assert first.count("finished: ") == 1
    assert "2 of 2 arms done: " in first
    assert normres("collect", workdir, f"--to={tmp_path / 'runs.csv'}") == 0
    assert (tmp_path / "runs.csv").read_text().count("finished") == 2
    assert normres(*sweep) == 0
    assert "finished: " not in capsys.readouterr().out
    assert normres(*sweep, "--list") == 0
    assert capsys.readouterr().out.count("finished ") == 2
    # Elsewhere, runs that were kept are not trained again.
    assert normres("collect", workdir, f"--to={tmp_path / 'kept'}") == 0
    elsewhere = [*sweep, f"--workdir={tmp_path / 'elsewhere'}", f"--kept={tmp_path / 'kept'}"]
    capsys.readouterr()
    assert normres(*elsewhere, "--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["kept", "kept"]
    assert normres(*elsewhere) == 0
    assert "2 of 2 arms are in " in capsys.readouterr().out
    # Or only those are trained again.
    next((tmp_path / "kept").glob("*rate=0.2*")).unlink()
    again = [*sweep, f"--workdir={tmp_path / 'again'}", f"--again={tmp_path / 'kept'}", "--seeds=2", "--list"]
    assert normres(*again) == 0
    assert ["learning_rate=0.1," in line for line in capsys.readouterr().out.splitlines()] == [True, True]
    assert normres("report", workdir) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.stat().st_size > 500 for path in paths)
    assert {path.suffix for path in paths} == {".png", ".pdf", ".svg", ".md", ".tex", ".csv", ".html"}


NEW = "--workdir=new"
SLURM = "--slurm.time needs `normres sweep --launcher=slurm`"
MISTAKES = [
    (["sweeep"], "'sweeep' is no command; did you mean 'sweep'?"),
    (["train"], "the following arguments are required: --config"),
    (["train", "--config=base", NEW, "--config.model.dept=3"], "config.model.dept is not a field"),
    (["train", "--config=base", NEW, "config.model.depth=8"], "did you mean --config.model.depth=8?"),
    (["train", "--config=base", NEW, "--config.model.depth"], "lacks its value"),
    (["train", "--config=base", NEW, "--confg.seed=1"], "is no argument here; did you mean '--config'?"),
    (["train", "--config=base", NEW, "--config.data.source=binary", "--config.data.path=/none"], "/none"),
    (["sweep", "--config=base", NEW], "base: defines no sweep(); add --seeds=N or --vary"),
    (["sweep", "--config=degradation", "--seeds=x"], "argument --seeds: invalid int value: 'x'"),
    (["sweep", "--config=base", NEW, "--slurm.time=60"], SLURM),
    (["status", ".", "--slurm.time=60"], SLURM),
    (["status", ".", "--config.seed=1"], "--config.seed: status takes no config"),
    (["collect", ".", "--to=x.csv", "--config.seed=1"], "--config.seed: collect takes no config"),
    (["report"], "name the directory of the runs once, as RUNS or --workdir=RUNS"),
    (["report", "."], "no runs here; `normres sweep` makes them"),
    (["report", ".", "--workdir=."], "name the directory of the runs once"),
    (["report", NEW, "--experiment=degradation"], "no such directory"),
    (["report", NEW, "--experiment=degradatoin"], "is no file of experiments/; did you mean 'degradation'?"),
    (["report", ".", "--all", "--experiment=degradation"], "it goes without --experiment"),
    (["report", ".", "--all"], "no folder of runs here"),
    (["compare", ".", "."], "no runs here"),
    (["show", "--config=base", "--config.model.ordr=pre"], "did you mean 'model.order'?"),
    (["show", "--config=base", "--svg=net.png"], "ends in .svg"),
    (["plan", "--config=base", "--device=a100"], "--device=a100 does not exist"),
    (["data", "prepare", "cifar11"], "'cifar11' is no data set; did you mean 'cifar10'?"),
    (["data", "verify", "/none"], "/none"),
    (["data", "verify", ".", "--slurm.time=60"], SLURM),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2_and_leaves_nothing(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normres(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("normres: ")
    assert said.count("\n") == 1
    assert not [*filter(Path.is_file, tmp_path.rglob("*"))]


@pytest.mark.parametrize("command", ["", "train", "sweep", "report"])
def test_help_names_what_a_newcomer_needs(command, capsys):
    with pytest.raises(SystemExit) as left:
        normres(*filter(None, [command, "--help"]))
    assert left.value.code == 0
    said = capsys.readouterr().out
    for needed in ("--workdir", "example") if command else ("train", "sweep", "report"):
        assert needed in said


def test_a_metric_line_cut_short_by_a_kill_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "spl')
    assert results.read_metrics(tmp_path) == [{"step": 1, "split": "train"}]


def test_non_finite_numbers_never_enter_the_json(tmp_path):
    assert train(tmp_path / "wild", "--config.optim.learning_rate=1e30", SMALL) == 0
    run = results.read_run(tmp_path / "wild")
    assert run.record["status"] == "diverged"
    assert run.record["diverged_at_step"] >= 1
    for file in ("record.json", "metrics.jsonl"):
        text = (tmp_path / "wild" / file).read_text()
        assert "NaN" not in text
        assert "Infinity" not in text
    assert json.loads((tmp_path / "wild" / "record.json").read_text())["final"]["test_error"] is None


def test_memory_is_returned_after_every_compilation(monkeypatch, tmp_path):
    events = []

    def noted(owner, name):
        original = getattr(owner, name)

        def noting(*arguments, **named):
            result = original(*arguments, **named)
            events.append(name)
            return result

        monkeypatch.setattr(owner, name, noting)

    for name in ("initial_state", "compile", "evaluate"):
        noted(Programs, name)
    noted(machine, "return_freed_memory")
    assert train(tmp_path / "one", SMALL) == 0
    for first in ("initial_state", "compile", "evaluate"):
        assert events[events.index(first) + 1] == "return_freed_memory", events


@pytest.mark.parametrize("words", [["--config.data.path=my photos"], ["--config.data.path", "my photos"]])
def test_a_value_is_not_taken_for_an_argument(words, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("normres.runs.finished.evaluate", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr("normres.runs.finished.in_words", lambda result: "")
    assert cli.main(["evaluate", *words, "runs/try"]) == 0
    assert cli.main(["evaluate", "~/try"]) == 0
    assert asked == [(Path("runs/try"), {"data.path": "my photos"}, "last"), (Path.home() / "try", {}, "last")]
