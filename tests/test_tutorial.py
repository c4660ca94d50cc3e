"""The tutorial: its files are written, its code is executed and its commands are run, with fewer and smaller steps."""

import re
import shlex
from pathlib import Path

import jax

from normres import cli, norms
from normres.bench import plan
from normres.norms import NormSpec

PAGE = Path(__file__).resolve().parent.parent / "docs/tutorial.md"
SMALL = {
    "model.width": 8,
    "model.norm_groups": 4,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.eval_every": 4,
    "train.log_every": 2,
    "train.ops": "plain",
    "optim.warmup_steps": 0,
}
# One depth in place of several: compiling is what takes the time.
SHALLOW = {"model.depth=8,14": "model.depth=8", "in (8, 14)": "in (8,)", "model.depth=56": "model.depth=8"}
TRAINS = ("train", "sweep", "plan")


def blocks():
    text = PAGE.read_text()
    for deep, shallow in SHALLOW.items():
        assert deep in text
        text = text.replace(deep, shallow)
    return re.findall(r"```(python|console)\n(.*?)```", text, re.S)


def shortened(command):
    """Returns the arguments of a command, of one that trains with smaller settings than the reader's."""
    arguments = shlex.split(command)[1:]
    if arguments[0] in TRAINS and "--list" not in arguments:
        arguments += [f"--config.{name}={value}" for name, value in SMALL.items() if f"--config.{name}=" not in command]
        if "per_class" not in command and "data.source" not in command:
            arguments.append("--config.data.fraction=0.05")
        if "model.depth" not in command and "rows.py" not in command:
            arguments.append("--config.model.depth=8")
    return arguments


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax, "devices", lambda *arguments: jax.local_devices()[:1])
    # tests/bench/test_device.py compiles for a plan.
    cost = dict.fromkeys((*plan.SIZES, "kernels", "bytes"), 1e6) | {"fit": "yes", "estimate_ms": None}
    monkeypatch.setattr(plan, "measured", lambda *arguments: cost)
    monkeypatch.setattr(plan, "seconds_of_a_step", lambda built: 0.1)
    ran = 0
    for kind, text in blocks():
        first = text.splitlines()[0]
        if kind == "python" and "a row of TABLE" in first:
            rows = eval(f"{{{text}}}", {"NormSpec": NormSpec})
            for name, row in rows.items():
                monkeypatch.setitem(norms.TABLE, name, row)
        elif kind == "python" and re.fullmatch(r"# \w+\.py", first):
            (tmp_path / first.removeprefix("# ")).write_text(text)
        elif kind == "python":
            with jax.numpy_rank_promotion("allow"):
                exec(compile(text, "tutorial", "exec"), {})
        for command in text.splitlines() if kind == "console" else ():
            arguments = shortened(command)
            if "--launcher=slurm" in arguments:  # scripts/slurm-test does that on a real one
                arguments[arguments.index("--launcher=slurm")] = "--list"
                arguments = [argument for argument in arguments if not argument.startswith("--slurm.")]
            if "sweep" in arguments:  # the row of the table is in this process alone
                arguments.append("--workers=1")
            assert cli.main(arguments) == 0, (command, capsys.readouterr().err)
            ran += 1
    assert ran >= 20
    verdict = (tmp_path / "runs/rows/report/index.html").read_text()
    assert "At the largest depth, the test error is lower" in verdict
    for file in ("runs/grid/report/index.html", "tuned.safetensors", "rows.csv"):
        assert (tmp_path / file).is_file()
