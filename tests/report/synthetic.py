"""Runs with chosen errors, in memory or as directories in the documented format: nothing is trained."""

import copy
import importlib
import json
from functools import cache
from pathlib import Path

from normres.report.arms import Arm, Setting
from normres.runs import sweep
from normres.runs.fields import flatten
from normres.runs.results import Run, write_json, write_record

ROOT = Path(__file__).resolve().parents[2]
YES, NO, OPEN = "supported", "contradicted", "cannot be judged yet"
CONFIG = {
    "seed": 0,
    "recipe": "demo",
    "model": {"depth": 14, "width": 8, "block": "basic", "shortcut": "A", "order": "post", "norm": "batch"},
    "data": {"name": "cifar10", "source": "embedded", "path": ""},
    "optim": {"learning_rate": 0.1, "schedule": "cosine", "warmup_steps": 100, "boundaries": []},
    "train": {"steps": 320, "batch_size": 128, "log_every": 10, "eval_every": 80},
}
ATTEMPT = {
    "commit": "0123456789abcdef",
    "diff": None,
    "compile_seconds": 5.0,
    "device": {"platform": "cpu", "kind": "cpu", "count": 1},
    "versions": {"jax": "0.12.0"},
    "host": {"system": "Linux", "cpu": "a processor", "cpu_count": 2},
}
DATA = {"name": "cifar10", "source": "embedded", "train_examples": 2560, "test_examples": 640, "sha256": "ab" * 32}


def made(
    errors, *, seed=0, name=None, status="finished", change=(), record=(), final=(), attempt=(), data=(), metrics=None
):
    """Returns a run with (training, test) errors; of a stylizer they are losses.

    `change` are config fields by dotted name; `record`, `final`, `attempt` and `data` are entries of record.json, its
    final numbers, its only attempt and its data; `metrics` are its metric lines, if not those of a falling error.
    """
    config = copy.deepcopy(CONFIG)
    for field, value in {"seed": seed, **dict(change)}.items():
        section, _, key = field.rpartition(".")
        (config[section] if section else config)[key] = value
    last = 320 if status == "finished" else 100
    train, test = errors if status == "finished" else (None, None)
    lines = [{"step": s, "split": "train", "loss": 1.9, "error": 0.9 - 0.001 * s} for s in range(10, last + 1, 10)]
    if status == "diverged":
        lines.append({"step": last, "split": "train", "loss": None, "error": None})
    else:
        lines += [{"step": s, "split": "test", "loss": 1.9, "error": 0.9 - 0.001 * s} for s in range(80, last + 1, 80)]
    name = name or f"depth={config['model']['depth']},shortcut={config['model']['shortcut']},seed={seed}"
    values = {
        "status": status,
        "run_id": name,
        "seed": seed,
        "dtype": "float32",
        "attempts": [ATTEMPT | dict(attempt)],
        "parameters": 1000 * config["model"]["depth"],
        "data": DATA | dict(data),
        "step": last,
        "steps": 320,
        "seconds": 60.0,
        "diverged_at_step": last if status == "diverged" else None,
        "final": {"train_loss": 1.0, "train_error": train, "test_loss": 1.5, "test_error": test} | dict(final),
        "best_test_error": test,
    }
    if config["model"].get("family") == "stylizer":  # which has no errors
        values |= {"final": {"train_loss": train, "test_loss": test} | dict(final), "best_test_error": None}
        lines = [{name: value for name, value in line.items() if name != "error"} for line in lines]
    return Run(Path(name), config, values | dict(record), lines if metrics is None else metrics)


def write_run(root, errors, **more):
    """Writes what `made` returns as root/runN, and returns that directory."""
    path = root / f"run{len(list(root.glob('*')))}"
    path.mkdir(parents=True)
    run = made(errors, **{"name": path.name} | more)
    write_json(path / "config.json", run.config)
    write_record(path, run.record)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run.metrics))
    return path


def arm(variant, at, errors, *, status=(), over="model.depth", block="basic", **more):
    """Returns an arm whose seeds have the errors, for training and test; `status` is by seed."""
    runs = [
        made((e, e), seed=s, status=dict(status).get(s, "finished"), name=f"{variant}{at}-{s}", **more)
        for s, e in enumerate(errors)
    ]
    return Arm(variant, Setting(at, block, over=over), "", {}, tuple(runs))


def grid(*arms):
    """Returns the arms by variant and setting."""
    return {(one.variant, one.setting): one for one in arms}


def experiment(name):
    """Returns what experiments/NAME.py declares."""
    return importlib.import_module(f"normres.experiments.{name}").EXPERIMENT


@cache
def arms_of_sweep(name, size):
    """Returns (variant, config fields) of each arm of configs/NAME.py:SIZE."""
    flat = [flatten(arm.config) for arm in sweep.expand(f"{ROOT / 'configs' / name}.py:{size}", {}, 1)]
    flat = [{field: value for field, value in fields.items() if not field.startswith("seeds.")} for fields in flat]
    return [(experiment(name).variant(fields), fields) for fields in flat]


def runs_of_sweep(name, size, errors, *, seeds=3, status=(), record=None, change=()):
    """Returns a run per arm of the sweep and seed, whose spread is small and not the same in every arm.

    `errors` gives (training, test) error of a variant at a depth, or at whatever else the experiment is over; `status`
    is by both; `record` gives entries of record.json by variant and seed.
    """
    runs = []
    for number, (variant, fields) in enumerate(arms_of_sweep(name, size)):
        place = (variant, fields[experiment(name).over])
        for seed in range(seeds):
            offset = 0.0004 * ((number + seed) % 3 - 1)
            more = {"status": dict(status).get(place, "finished"), "record": record(variant, seed) if record else {}}
            fields = fields | {"seed": seed} | dict(change)
            both = [error + offset for error in errors(*place)]
            runs.append(made(both, seed=seed, change=fields, name=f"{name}{number}-{seed}", **more))
    return runs


def outcomes(name, runs):
    """Returns the outcomes of the clauses of experiments/NAME.py."""
    declared = experiment(name)
    return [verdict.outcome for verdict in declared.judge(declared.arms(runs))]
