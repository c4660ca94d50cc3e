"""Run directories in the documented format, with chosen errors: nothing is trained."""

import copy
import importlib
import json
from pathlib import Path

from normres.runs import sweep
from normres.runs.fields import flatten
from normres.runs.results import read_runs, write_json

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "seed": 0,
    "recipe": "demo",
    "model": {"depth": 14, "width": 8, "block": "basic", "shortcut": "A", "order": "post", "norm": "batch"},
    "data": {"name": "cifar10", "source": "embedded", "path": ""},
    "optim": {"learning_rate": 0.1, "schedule": "cosine", "warmup_steps": 100, "boundaries": []},
    "train": {"steps": 320, "batch_size": 128, "log_every": 10, "eval_every": 80},
}


def write_run(root, errors, *, seed=0, name=None, status="finished", change=(), record=(), final=()):
    """Writes one run with (training, test) errors; `change` are config fields by dotted name, `record` and `final`
    are entries of record.json and of its final numbers.
    """
    config = copy.deepcopy(CONFIG)
    for field, value in {"seed": seed, **dict(change)}.items():
        section, _, key = field.rpartition(".")
        (config[section] if section else config)[key] = value
    path = root / f"run{len(list(root.glob('*')))}"
    path.mkdir(parents=True)
    write_json(path / "config.json", config)
    last = 320 if status == "finished" else 100
    train, test = errors if status == "finished" else (None, None)
    lines = [{"step": s, "split": "train", "loss": 1.9, "error": 0.9 - 0.001 * s} for s in range(10, last + 1, 10)]
    if status == "diverged":
        lines.append({"step": last, "split": "train", "loss": None, "error": None})
    else:
        lines += [{"step": s, "split": "test", "loss": 1.9, "error": 0.9 - 0.001 * s} for s in range(80, last + 1, 80)]
    write_lines(path, lines)
    data = {"name": "cifar10", "source": "embedded", "train_examples": 2560, "test_examples": 640, "sha256": "ab" * 32}
    values = {
        "status": status,
        "run_id": name or path.name,
        "seed": seed,
        "dtype": "float32",
        "device": {"platform": "cpu", "kind": "cpu", "count": 1},
        "versions": {"jax": "0.12.0"},
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "host": {"system": "Linux", "cpu": "a processor", "cpu_count": 2},
        "parameters": 1000 * config["model"]["depth"],
        "data": data,
        "step": last,
        "steps": 320,
        "seconds": 60.0,
        "compile_seconds": 5.0,
        "diverged_at_step": last if status == "diverged" else None,
        "final": {"train_loss": 1.0, "train_error": train, "test_loss": 1.5, "test_error": test} | dict(final),
        "best_test_error": test,
    }
    write_json(path / "record.json", values | dict(record))
    return path


def write_lines(path, lines):
    """Writes metrics.jsonl."""
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_grid(root, errors, seeds=(0.0,)):
    """Writes runs with (training, test) errors by shortcut and depth; each seed is an offset to every error."""
    for (shortcut, depth), both in errors.items():
        for seed, offset in enumerate(seeds):
            change = {"model.shortcut": shortcut, "model.depth": depth}
            write_run(root, [error + offset for error in both], seed=seed, change=change)
    return read_runs(root)


def comparison(name):
    """Returns what experiments/NAME.py declares."""
    return importlib.import_module(f"normres.experiments.{name}").COMPARISON


def arms_of_sweep(name, size, overrides=()):
    """Returns (variant, config fields) of each arm of configs/NAME.py:SIZE."""
    expanded = sweep.expand(f"{ROOT / 'configs' / name}.py:{size}", dict(overrides), 1)
    flat = [flatten(arm.config) for arm in expanded]
    flat = [{field: value for field, value in fields.items() if not field.startswith("seeds.")} for fields in flat]
    return [(comparison(name).variant(fields), fields) for fields in flat]


def write_sweep(root, name, size, errors, *, seeds=(0.0,), skip=(), status=None, overrides=(), record=None):
    """Writes a run per arm of the sweep and seed.

    `errors` gives (training, test) error of a variant and depth, a seed is an offset to both; `skip` are (variant,
    depth) without runs; `status` is by (variant, depth); `record` gives entries of record.json by variant and seed.
    """
    for variant, fields in arms_of_sweep(name, size, overrides):
        place = (variant, fields["model.depth"])
        if place in skip:
            continue
        for seed, offset in enumerate(seeds):
            write_run(
                root,
                [error + offset for error in errors(*place)],
                seed=seed,
                change=fields | {"seed": seed},
                status=(status or {}).get(place, "finished"),
                record=record(variant, seed) if record else {},
            )
    return read_runs(root)


def outcomes(name, runs):
    """Returns the outcomes of the clauses of experiments/NAME.py."""
    return [clause.outcome for clause in comparison(name).judge(comparison(name).arms(runs))]
