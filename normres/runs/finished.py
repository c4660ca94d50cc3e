"""Runs that are done: their weights, for features and fine-tuning, for measuring on other data, to start another run.

run = normres.runs.load("runs/try")
logits_NK = run.module.apply(run.variables, run.preprocess(images_uint8_NHWC))
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from normres import files
from normres.data import preprocess
from normres.data.dataset import CLASSES, sha256
from normres.errors import UserError, nearest
from normres.runs import checkpoint, durable, machine, results, unread
from normres.runs import config as configs
from normres.runs.fields import before, declared, flatten
from normres.training.networks import build_network
from normres.training.programs import Programs, placed
from normres.training.step import TrainState

# Fields that may differ where a run is evaluated, beside those of the data.
EVALUATION = ("train.eval_batch_size", "train.ops")
# Of the data, what belongs to the training alone, or how its name begins.
OF_TRAINING: tuple[str, ...] = ("data.preprocess", "data.styles", "data.augmentation", "data.padding", "data.cut")
OF_TRAINING += ("data.mixup", "data.label_noise")
OF_SPLITS = ("data.validation", "data.fraction", "data.per_class", "data.stratified", "data.split_seed")
# What leaves the images that are measured as they are, or how its name begins.
SAME_IMAGES = ("data.corruption", "data.path", "data.verify", "data.stream")
# Fields that an evaluation does not read, at values that fit any data and devices.
UNREAD: dict[str, Any] = {"data.cutout": 0, "data.mixup": 0.0, "data.cutmix": 0.0, "train.parallel": "jit"}
# What must not be asked of other data.
NOT_TRAINED: dict[str, Any] = {"data.label_noise": 0.0, "data.validation": 0, "data.evaluate_on": "test"}
NOT_TRAINED |= {"data.fraction": 1.0, "data.per_class": 0, "data.stratified": False}
DTYPES, WHICH = ("float32", "bfloat16"), ("last", "best")
WEIGHTS = ("params.", "batch_stats.")  # how the names of a checkpoint's weights begin


# eq=False: comparing arrays field by field is ambiguous.
@dataclass(frozen=True, eq=False)
class Loaded:
    """A run's network and weights.

    Attributes:
      module: the Flax module, in evaluation mode, of plain JAX: images_NHWC -> logits_NK; `.clone(train=True)` trains.
        A stylizer takes (images_NHWC, labels_N, styles_NHWC): of each image the number and the picture of its style.
      variables: {"params", "batch_stats"} of float32 arrays.
      config: the run's.
      record: the run's, see results.py.
      step: optimizer steps that made the weights.
      statistics: what `preprocess` reads.
    """

    module: nn.Module
    variables: dict[str, Any]
    config: ConfigDict
    record: dict[str, Any]
    step: int
    statistics: preprocess.Statistics

    def preprocess(self, images_NHWC: Any) -> jax.Array:
        """Returns uint8 images as the network was trained to read them, float32.

        Raises:
          ValueError: they are not uint8.
        """
        if images_NHWC.dtype != np.uint8:
            raise ValueError(f"expected uint8 images with levels 0 to 255, got {images_NHWC.dtype}")
        arrays: Any = self.statistics.arrays()
        return preprocess.preprocess(self.statistics.kind, jax.numpy.asarray(images_NHWC), arrays)


def load(path: str | Path, which: str = "last", dtype: str = "") -> Loaded:
    """Returns the network of a run with its weights; docs/export.md takes features from it and fine-tunes it.

    Args:
      path: the run's directory.
      which: "last" weights, or "best" (lowest test error), which a run with config.train.keep=last,best keeps.
      dtype: of activations, "float32" or "bfloat16"; "" = as in training.

    Raises:
      UserError: there is no run or none of its weights, or what it was trained with is gone.
    """
    path = Path(path)
    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} does not exist; {nearest(dtype, DTYPES)}")
    saved = open_run(path, which)
    config = rebuilt(saved.document["config"])
    run = results.read_run(path)
    record = run.record if run else saved.document["record"]
    # One process and one device: nothing is merged over devices.
    alone = configs.apply(config, {"train.parallel": "jit"})
    module = build_network(alone, record["data"]["classes"], dtype or record["dtype"])
    variables = {"params": {}, "batch_stats": {}, **unflatten_dict(saved.arrays(WEIGHTS), sep=".")}
    statistics = preprocess.Statistics.restored(record["preprocess"], saved.document["preprocess"])
    diverged = "this run diverged" if record.get("status") == "diverged" else ""
    for line in filter(None, (changed_module(record, config), diverged)):
        print(f"warning: {line}", file=sys.stderr)
    return Loaded(module, variables, config, record, saved.step, statistics)


def changed_module(record: Mapping[str, Any], config: ConfigDict) -> str:
    """Says that the user's module is another one by now than that of the run with this record; "" if it is not."""
    trained, file = (record.get("attempts") or [{}])[-1].get("module"), config.model.module.rpartition(":")[0]
    changed = trained and Path(file).is_file() and trained != files.digest(Path(file))
    return f"the code of {file} has changed since this run" if changed else ""


def other_data(path: Path, config: ConfigDict) -> str:
    """Says that a config reads its data in another place than the run in `path` did; "" if it does not."""
    try:
        held = durable.read_json(path / "config.json")["data"]["path"]
    except (OSError, TypeError, KeyError, UserError):  # lost or damaged
        return ""
    moved = config.data.name in CLASSES and config.data.source != "auto"  # which are the same images anywhere
    differ = config.data.path != held and not moved
    return f"config.data.path={config.data.path!r}: this run was trained with {held!r}" if differ else ""


def open_run(path: Path, which: str = "last") -> checkpoint.Saved:
    """Returns a checkpoint of the run in `path`; see load."""
    folder = path / "checkpoints"
    if not folder.is_dir():
        raise UserError(f"{path}: {'no weights were kept here' if results.read_run(path) else 'no run here'}")
    if which not in WHICH:
        raise UserError(f"--which={which} does not exist; {nearest(which, WHICH)}")
    if which == "best":
        saved = checkpoint.read(checkpoint.path_of(folder, results.read_record(path)["best_test_step"] or -1))
        why = "the best weights were not kept; train with --config.train.keep=last,best"
    else:
        saved, passed_over = checkpoint.newest(folder)
        reason = next(iter(passed_over), "config.train.keep of the run says which stay")
        why = f"no checkpoint to read: {reason}"
        record = results.read_record(path) if (path / "record.json").is_file() else {}
        if saved and record.get("status") == "finished" and saved.step != record.get("step"):
            best = " (--which=best of evaluate and export: the best)" * (saved.step == record.get("best_test_step"))
            there = f"the newest weights are those of step {saved.step}{best}"
            saved, why = None, f"the last weights are not here: {reason}; {there}"
    if not saved:
        raise UserError(f"{folder}: {why}")
    if "preprocess" not in saved.document:
        raise UserError(f"{saved.path}: an older version saved no preprocessing with it; use that one to read it")
    return saved


def rebuilt(values: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a run from its JSON; fields that are younger than the run have the value of then.

    Raises:
      UserError: a field's value is no longer possible.
    """
    from normres.configs import base

    known = flatten(dict(values))
    config = base.get_config()
    config.recipe = known["recipe"]
    return configs.apply(config, {name: value for name, value in (before() | known).items() if name in declared()})


def evaluate(path: str | Path, overrides: Mapping[str, Any] | None = None, which: str = "last") -> dict[str, Any]:
    """Measures a run's weights on its own test images, or on data that the overrides name.

    Returns {"run", "which", "step", "data", "values", "corrupted"}: of the data the summary, of the values the METRICS
    of examples, means; errors under config.data.corruptions.  The overrides are fields of the data
    that do not belong to the training, train.eval_batch_size and train.ops; see load for the rest.

    Raises:
      UserError: another field is overridden, or the data do not fit the network.
    """
    from normres.data import corruptions
    from normres.runs.local import load_data

    of_data = [name for name in declared() if name.startswith("data.") and not name.startswith(OF_TRAINING)]
    allowed, given = [*EVALUATION, *of_data], dict(overrides or {})
    for name in given:
        if name not in declared():
            raise UserError(f"config.{name} is not a field; {nearest(name, allowed)}")
        if name not in allowed:
            raise UserError(f"config.{name} is the run's own and stays; evaluate takes {', '.join(allowed)}")
    run = load(path, which)
    config, own = configs.apply(run.config, UNREAD | given), run.config.data
    # The same CIFAR may lie elsewhere; of a set of one's own, another place is another set.
    names = ("source", "name") if own.name in CLASSES else ("source", "name", "path")
    if others := any(own[name] != config.data[name] for name in names):
        config = configs.apply(run.config, UNREAD | NOT_TRAINED | given)
    asked = config.data
    drawn = (asked.split_seed, asked.stratified) == (own.split_seed, own.stratified)
    known = own.name in CLASSES and asked.name == own.name  # other files of it have images of the training, too
    unseen = not known if others else drawn and asked.validation <= own.validation
    if asked.evaluate_on == "validation" and not unseen:
        raise UserError(f"config.data.validation={asked.validation}: the run was trained on images of this set")
    for line in _without_effect(config, [*given]):
        print(f"warning: {line}", file=sys.stderr)
    dataset = load_data(config)
    _check_fit(run, dataset.summary())
    same = all(name.startswith(SAME_IMAGES) or not name.startswith("data.") for name in given)
    if same and not others and dataset.summary()["sha256"] != run.record["data"]["sha256"]:
        print("warning: config.data.path: the data have changed since this run", file=sys.stderr)
    if "data.corruptions" in given:
        corruptions.check(config.data.corruptions, dataset.test_images.shape[-1])
    devices = jax.devices()
    if any(size % len(devices) for size in (config.train.batch_size, config.train.eval_batch_size)):
        devices = devices[:1]
    ops, _ = machine.operations(config.train.ops, devices)
    programs = Programs(config, dataset, run.record["dtype"], devices, ops, run.statistics)
    _check_shapes(run, programs, dataset.summary()["image_shape"])
    weights = jax.device_put(run.variables, programs.replicated)
    no: Any = None  # of the state, evaluation reads the weights alone
    state = TrainState(no, weights["params"], weights["batch_stats"], no, no, no)
    measure = partial(programs.evaluate, state, "test")
    values = measure()
    assert values is not None
    return {
        "run": run.record["run_id"],
        "which": which,
        "step": run.step,
        "data": dataset.summary(),
        "values": {name: value if math.isfinite(value) else None for name, value in values.items()},
        "corrupted": corruptions.errors(config.data, measure) or None,
    }


def in_words(result: dict[str, Any]) -> str:
    """Returns the table of what `evaluate` returned."""
    data = result["data"]
    images = f"{data['test_examples']:,} {data['evaluated_on']} images of {data['name']} ({data['source']})"
    lines = [f"{result['run']}, {result['which']} weights (step {result['step']:,}), on {images}"]
    rows = dict(result["values"])
    for name, errors in (result["corrupted"] or {}).items():
        rows |= {f"error, {name} {severity}": error for severity, error in enumerate(errors, start=1)}
    width = max(map(len, rows))
    for name, value in rows.items():
        shown = "not finite" if value is None else f"{value:.2%}" if "error" in name else f"{value:.4f}"
        lines.append(f"  {name:{width}}  {shown}")
    return "\n".join(lines)


def _without_effect(config: ConfigDict, names: Sequence[str]) -> list[str]:
    """Returns a sentence for each of these fields that an evaluation with the config does not read."""
    given = tuple(f"config.{name}=" for name in names)
    lines = [line for line in unread.of(config) if line.startswith(given)]
    if config.data.evaluate_on == "test":
        lines += [f"config.{name} has no effect on the test images" for name in OF_SPLITS if name in names]
    return lines


def _check_fit(run: Loaded, data: dict[str, Any]) -> None:
    """Raises UserError if a network cannot be measured on data with this summary."""
    trained = run.record["data"]
    if data["classes"] != trained["classes"]:
        there = f"the run was trained on {trained['classes']} ({trained['name']})"
        raise UserError(f"config.data.name={data['name']!r}: {data['classes']} classes, but {there}")
    ours, theirs = (one.get("class_names", []) for one in (data, trained))  # older records have none
    if ours != theirs and sorted(ours) == sorted(theirs):
        here, there = (", ".join(names[:3]) for names in (ours, theirs))
        raise UserError(f"config.data.path: the classes are {here}, ... in another order than the run's {there}, ...")
    if data["image_shape"][-1] != trained["image_shape"][-1]:
        raise UserError(f"config.data.source={data['source']!r}: images of {data['image_shape'][-1]} channels")
    if run.statistics.kind == "pixel_mean" and data["image_shape"] != trained["image_shape"]:
        there, here = ("x".join(map(str, shape)) for shape in (trained["image_shape"], data["image_shape"]))
        raise UserError(f"config.data.image_size: images of {here}, but the run subtracts a mean image of {there}")


def _check_shapes(run: Loaded, programs: Programs, image_shape: list[int]) -> None:
    """Raises UserError if a run's weights do not fit the network of the programs."""
    shapes = programs.state_shapes()
    expected = checkpoint.by_name({"params": shapes.params, "batch_stats": shapes.batch_stats})
    held = checkpoint.by_name(run.variables)
    for name in sorted(held.keys() | expected.keys()):
        here, there = (arrays[name].shape if name in arrays else "absent" for arrays in (expected, held))
        if here != there:
            field, size = (
                "model.module" if run.config.model.module else "data.image_size",
                "x".join(map(str, image_shape)),
            )
            raise UserError(
                f"config.{field}: for images of {size}, {name} has the shape {here}, and {there} in the run"
            )


def init_from(state: TrainState, path: str | Path) -> tuple[TrainState, dict[str, Any], list[str]]:
    """Puts the last weights of a run in the place of the initial ones; the optimizer's state stays as it is.

    Where only the number of classes differs, the classifier keeps its initial values.  Returns the state, what the
    record says about it, and lines for the user.

    Raises:
      UserError: an array is missing, too many, or of another shape; the first one is named.
    """
    try:
        saved, status = open_run(Path(path)), results.status_of(Path(path))
    except UserError as error:
        raise UserError(f"config.init_from={error}") from None
    if status == "diverged":
        raise UserError(f"config.init_from={path}: that run diverged")
    record, there = saved.document["record"], saved.arrays(WEIGHTS)
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    here, classes, anew = checkpoint.by_name(weights), record["data"]["classes"], list[str]()
    for name in sorted(here.keys() | there.keys(), key=lambda name: (not name.startswith("params."), name)):
        theirs, ours = (arrays[name].shape if name in arrays else "absent" for arrays in (there, here))
        if theirs == ours:
            continue
        # Where all else agrees, only the classifier's arrays can differ in their last axis.
        if "absent" in (theirs, ours) or theirs != (*ours[:-1], classes):
            raise UserError(f"config.init_from={path}: {name} is {theirs} there and {ours} here")
        anew.append(name)
    # A cumulative average counts its batches: it begins anew, as the old ones would outweigh all new ones.
    own = [*anew, *(name for name in here if name.endswith(".updates"))]
    taken = [leaf if name in own else placed(there[name], leaf.sharding) for name, leaf in here.items()]
    lines = [f"starts from {path} at its step {saved.step}{f', {status}' * (status in ('interrupted', 'running'))}"]
    if anew:
        lines.append(f"{', '.join(anew)}: {classes} classes there, other ones here; it starts anew")
    summary = {name: record[name] for name in ("run_id", "config_digest")}
    summary |= {"path": str(path), "step": saved.step, "sha256": sha256(there[name] for name in sorted(there))}
    replaced = jax.tree.unflatten(jax.tree.structure(weights), taken)
    return replace(state, **replaced), {**summary, "anew": anew}, lines


def other_networks(config: ConfigDict) -> list[str]:
    """Returns a sentence for each field in which the network of a run is not that whose weights it starts from."""
    saved = open_run(Path(config.init_from)).document
    theirs, own = flatten(saved["config"]), flatten(configs.to_dict(config))
    names = [name for name in own if name.startswith("model.") and not declared()[name].how] + ["data.preprocess"]
    differ = [name for name in names if name in theirs and own[name] != theirs[name]]
    lines = [f"config.{name}={own[name]!r}: config.init_from was trained with {theirs[name]!r}" for name in differ]
    if "model.module" not in differ and changed_module(saved["record"], config):
        module = config.model.module
        lines.append(f"config.model.module={module!r}: config.init_from was trained before the file changed")
    return lines
