"""What the README promises under "Change one thing": one row or one file, and the command line trains with it."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest

from normres import cli, layers, norms
from normres.configs import base
from normres.data import load
from normres.data.sources import SOURCES, Source
from normres.models import MODELS, ORDERS, SHORTCUTS, VGG
from normres.models.variants import Order, Shortcut
from normres.norms import NormSpec, find_spec, kernels
from normres.runs import fields, results
from normres.training import optim
from normres.training.losses import LOSSES
from normres.training.metrics import METRICS, Metric

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "--config.model.depth=8",
    "--config.model.width=4",
    "--config.train.steps=2",
    "--config.train.batch_size=16",
    "--config.train.eval_batch_size=640",
    "--config.data.fraction=0.05",
    "--config.optim.warmup_steps=0",
    "--config.train.dtype=float32",
]
NET = """
import flax.linen as nn

class Net(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, images_NHWC, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=4)(images_NHWC))
        return nn.Dense(self.classes)(nn.relu(x).mean((1, 2)))
"""
ROWS = [
    (norms.TABLE, NormSpec(over="WC"), "--config.model.norm=row"),
    (ORDERS, Order("norm conv relu"), "--config.model.order=row"),
    (SHORTCUTS, Shortcut(factor=0.3), "--config.model.shortcut=row"),
    (
        kernels.TABLE,
        kernels.WeightNormalization(lambda k, scale, state: (k / 2, None)),
        "--config.model.weights=row",
    ),
    (METRICS, Metric("examples", lambda outcome: outcome.logits_NK.max(-1)), ""),
    (LOSSES, lambda logits, labels, smoothing: jnp.sum(logits**2, -1), "--config.optim.loss=row"),
    (optim.OPTIMIZERS, lambda fields: [optax.scale_by_rms(), optim.scaled_by_rate()], "--config.optim.optimizer=row"),
    (SOURCES, Source(lambda name, path: load("cifar10", "embedded")), "--config.data.source=row"),
    (optim.SCHEDULES, lambda fields, steps: optax.linear_schedule(0.1, 0.0, steps), "--config.optim.schedule=row"),
]


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs of one device compile in half the time."""
    monkeypatch.setattr(jax, "devices", lambda *arguments: jax.local_devices()[:1])


def trained(workdir, *options):
    assert cli.main(["train", "--config=base:demo", *TINY, *filter(None, options), f"--workdir={workdir}"]) == 0
    return results.read_run(workdir)


def test_one_row_is_enough(tmp_path, monkeypatch):
    for table, row, _ in ROWS:
        monkeypatch.setitem(table, "row", row)
    run = trained(tmp_path / "run", *(option for *_, option in ROWS))
    assert run.record["status"] == "finished"
    assert list(fields.flatten(run.config).values()).count("row") == len(ROWS) - 1
    assert run.record["final"]["test_row"] == run.series("test", "row")[1][-1] != 0
    assert run.series("train", "row")[1][-1] != 0


def test_a_family_is_a_row_and_its_shared_fields_are_read(tmp_path, monkeypatch, capsys):
    class Row(VGG):
        @nn.compact
        def __call__(self, images_NHWC):
            x = nn.Conv(4, (3, 3), strides=4, name="stage1_conv1")(images_NHWC)
            norm = layers.Norm(find_spec(self.config.norm, self.config.norm_groups))
            return nn.Dense(self.config.classes, name="classifier")(norm(x).mean((1, 2)))

    monkeypatch.setitem(MODELS, "row", MODELS["vgg"]._replace(module=Row))
    run = trained(tmp_path / "run", "--config.model.family=row", "--config.model.depth=11", "--config.model.norm=rms")
    # A scale for each channel, and no bias, as layer norm would have.
    assert run.record["parameters"] == 112 + 4 + 50
    assert "does not read it" not in capsys.readouterr().out


def test_a_network_is_one_file(tmp_path):
    sown = "        self.sow('auxiliary', 'x', x)\n"  # is not read as a classifier
    (tmp_path / "my.py").write_text(NET.replace("        return ", f"{sown}        return "))
    run = trained(tmp_path / "run", f"--config.model.module={tmp_path / 'my.py'}:Net")
    # 3 * 9 * 4 + 4, two for each channel's norm, and the classifier.
    assert run.record["parameters"] == 112 + 8 + 50


def test_a_fault_in_a_users_network_shows_the_place(tmp_path, capsys):
    (tmp_path / "my.py").write_text(NET.replace(".mean(", ".maen("))
    option = f"--config.model.module={tmp_path / 'my.py'}:Net"
    assert cli.main(["train", "--config=base:demo", *TINY, option, f"--workdir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert 'my.py", line 10, in __call__' in said
    assert said.splitlines()[-1].startswith("normres: ")
    (tmp_path / "third.py").write_text(NET.replace("train", "training"))
    third = f"--config.model.module={tmp_path / 'third.py'}:Net"
    assert cli.main(["train", "--config=base:demo", *TINY, third, f"--workdir={tmp_path / 'third'}"]) == 2
    assert "its __call__ has no argument `train`" in capsys.readouterr().err
    (tmp_path / "my.py").write_text("Net = 3\n")
    other = f"--config.model.module={tmp_path / 'my.py'}:Other"
    assert cli.main(["train", "--config=base:demo", *TINY, other, f"--workdir={tmp_path / 'other'}"]) == 2
    assert "has no Flax module 'Other'" in capsys.readouterr().err


def test_an_ablation_is_one_file(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from normres.configs import base\n"
        "def get_config():\n    return base.get_config('demo')\n"
        "def sweep():\n    return [{'model.norm': 'batch'}, {'model.norm': 'group'}]\n"
    )
    command = ["sweep", f"--config={tmp_path / 'mine.py'}", "--list", f"--workdir={tmp_path}"]
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["to do      norm=batch", "to do      norm=group"]


def test_the_readme_says_what_is_there():
    readme = (ROOT / "README.md").read_text()
    for name in (*norms.TABLE, *base.RECIPES):
        assert f"`{name}`" in readme, name
