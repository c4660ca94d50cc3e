"""What of a data set is trained and evaluated on: validation sets, subsets and label noise, `Dataset` -> `Dataset`.

Each draws from a stream of random numbers of its own, so changing one leaves what the others draw; and each is nested:
a larger validation set, subset or noise rate holds the smaller one of the same seed.  No draw depends on config.seed:
all the seeds of a sweep see the same data.
The order is validation set first, from the whole training set, then the subset of the rest, then noise on its labels.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from normres.data.dataset import Dataset
from normres.errors import UserError

# What tells the streams apart that may have the same seed.
# batches.py draws an epoch's order from [seed, epoch]; a draw from the same numbers would be the same order.
_STREAMS = {"validation": (1,), "subset": (2,), "label_noise": (3, 1)}


def check(fields: Mapping[str, Any]) -> None:
    """Raises `UserError`, one line that names the field, if these fields of config.data fit no data set."""
    fraction, per_class = fields["fraction"], fields["per_class"]
    if fields["evaluate_on"] == "validation" and not fields["validation"]:
        raise UserError("data.evaluate_on='validation' needs data.validation, such as 5000; it is 0")
    if per_class and fraction < 1:
        raise UserError(f"data.fraction={fraction} and data.per_class={per_class} exclude each other; set one of them")
    if fields["stratified"] and not fields["validation"] and fraction == 1:
        raise UserError("data.stratified=True has nothing to divide: set data.validation or data.fraction")


def apply(dataset: Dataset, fields: Mapping[str, Any]) -> Dataset:
    """Returns the data set after all splits that these fields of config.data ask for, which `check` has seen.

    Raises `UserError`, one line that names the field, if the values do not fit this data set.
    """
    if fields["validation"]:
        dataset = _set_aside(dataset, fields)
    if fields["fraction"] < 1:
        dataset = _keep_fraction(dataset, fields)
    if fields["per_class"]:
        dataset = _keep_per_class(dataset, fields)
    if fields["label_noise"]:
        dataset = _add_label_noise(dataset, fields)
    return dataset


def _set_aside(dataset: Dataset, fields: Mapping[str, Any]) -> Dataset:
    """Takes examples out of the training set; He et al. 2015 and 2016 set 5,000 of CIFAR-10's 50,000 aside."""
    count, seed, stratified = fields["validation"], fields["split_seed"], fields["stratified"]
    if count >= (size := len(dataset.train_labels)):
        raise UserError(f"data.validation={count} must be less than the {size:,} training examples")
    order = _order(dataset.train_labels, "validation", seed, stratified)
    rest = _train(dataset, order[count:], validation={"examples": count, "seed": seed, "stratified": stratified})
    if fields["evaluate_on"] == "test":
        return rest
    aside = _train(dataset, order[:count])
    return replace(rest, test_images=aside.train_images, test_labels=aside.train_labels, evaluated_on="validation")


def _keep_fraction(dataset: Dataset, fields: Mapping[str, Any]) -> Dataset:
    fraction, seed, stratified = fields["fraction"], fields["split_seed"], fields["stratified"]
    count = round(fraction * len(dataset.train_labels))
    if not count:
        raise UserError(f"data.fraction={fraction} of {len(dataset.train_labels):,} examples is less than one example")
    order = _order(dataset.train_labels, "subset", seed, stratified)
    return _train(dataset, order[:count], subset={"fraction": fraction, "seed": seed, "stratified": stratified})


def _keep_per_class(dataset: Dataset, fields: Mapping[str, Any]) -> Dataset:
    count, seed = fields["per_class"], fields["split_seed"]
    have = np.bincount(dataset.train_labels, minlength=len(dataset.class_names))
    least = int(have.argmin())
    if have[least] < count:
        name = dataset.class_names[least]
        raise UserError(f"data.per_class={count}: the class {name!r} has only {have[least]:,} examples")
    order = _order(dataset.train_labels, "subset", seed)
    return _train(dataset, order[_rank(dataset.train_labels[order]) < count], subset={"per_class": count, "seed": seed})


def _add_label_noise(dataset: Dataset, fields: Mapping[str, Any]) -> Dataset:
    """Replaces training labels by uniformly random other classes; test and validation labels stay as they are."""
    rate, seed = fields["label_noise"], fields["label_noise_seed"]
    labels, classes = dataset.train_labels.copy(), len(dataset.class_names)
    if classes < 2:
        raise UserError(f"data.label_noise={rate} needs at least two classes; there is only {dataset.class_names[0]!r}")
    random = np.random.default_rng([seed, *_STREAMS["label_noise"]])
    chosen = random.permutation(len(labels))[: round(rate * len(labels))]
    if not len(chosen):
        raise UserError(f"data.label_noise={rate} of {len(labels):,} training labels is less than one label")
    # All are drawn, whatever the rate, so that a label replaced at two rates is replaced by the same class.
    shift = random.integers(1, classes, len(labels))
    labels[chosen] = (labels[chosen] + shift[chosen]) % classes
    noise = {"rate": rate, "replaced": len(chosen), "seed": seed}
    return replace(dataset, train_labels=labels, splits=dataset.splits | {"label_noise": noise})


def _order(labels: np.ndarray, stream: str, seed: int, stratified: bool = False) -> np.ndarray:
    """Returns a random order of the examples, any beginning of which is, stratified, in proportion of the classes.

    The r-th of a class's n examples comes at (r + 1/2) / n of the way (Webster's method).  So each beginning has every
    class's share to within one example, if the classes are about equal; a class that is much larger may have more.
    """
    order = np.random.default_rng([seed, *_STREAMS[stream]]).permutation(len(labels))
    if not stratified:
        return order
    shuffled = labels[order]
    place = (_rank(shuffled) + 0.5) / np.bincount(shuffled)[shuffled]
    return order[np.argsort(place, kind="stable")]


def _rank(labels: np.ndarray) -> np.ndarray:
    """Returns for each example how many of the same class come before it."""
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.searchsorted(labels, labels[by_class], sorter=by_class)
    return rank


def _train(dataset: Dataset, kept: np.ndarray, **split: Any) -> Dataset:
    """Returns the data set with these training examples, in their order, and `split` in its record."""
    kept = np.sort(kept)
    images, labels = dataset.train_images.take(kept, axis=0), dataset.train_labels[kept]
    return replace(dataset, train_images=images, train_labels=labels, splits=dataset.splits | split)
