"""Validation sets, subsets and label noise: exact counts, the same every time; mistakes in the config of the data."""

import json
from dataclasses import replace

import numpy as np
import pytest

from normres.configs import base
from normres.data import Dataset, batches, splits
from normres.errors import UserError
from normres.runs import config as configs

CLASSES = 10


def dataset(size=1000, labels=None):
    """Training image i has the value i in its first two bytes, so examples can be told apart."""
    if labels is None:
        labels = np.random.default_rng(5).integers(0, CLASSES, size).astype(np.int32)
    images = np.zeros((len(labels), 2, 2, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.divmod(np.arange(len(labels)), 256)
    test = np.full((20, 2, 2, 3), 255, np.uint8)
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Dataset("cifar10", "embedded", images, labels, test, np.zeros(20, np.int32), names)


def ids(images):
    return (images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]).tolist()


def train(data):
    return ids(data.train_images)


WHOLE = dataset()


def unchanged(data):
    """Whether every training image still has the label that it has in WHOLE."""
    return data.train_labels.tolist() == WHOLE.train_labels[train(data)].tolist()


def apply(whole=WHOLE, **fields):
    return splits.apply(whole, {**base.get_config().data, **fields})


def aside(count, whole=WHOLE, **fields):
    return apply(whole, validation=count, evaluate_on="validation", **fields)


@pytest.mark.parametrize("stratified", [False, True])
def test_validation_set(stratified):
    data = aside(100, stratified=stratified)
    validation = ids(data.test_images)
    assert (len(validation), len(train(data))) == (100, 900)
    assert sorted(validation + train(data)) == list(range(1000))
    # The official order is kept on both sides.
    assert validation == sorted(validation)
    assert train(data) == sorted(train(data))
    assert data.test_labels.tolist() == WHOLE.train_labels[validation].tolist()
    assert unchanged(data)
    assert data.summary()["evaluated_on"] == "validation"
    assert data.summary()["splits"] == {"validation": {"examples": 100, "seed": 0, "stratified": stratified}}
    assert json.loads(json.dumps(data.summary())) == data.summary()
    assert apply() is WHOLE
    assert WHOLE.summary()["splits"] == {}
    # To evaluate on the test set leaves the training images the same.
    on_test = apply(validation=100, stratified=stratified)
    assert train(on_test) == train(data)
    assert on_test.test_images is WHOLE.test_images
    assert on_test.summary()["evaluated_on"] == "test"


def test_the_validation_set_is_the_same_on_every_machine():
    # Published runs are compared over it, so a change of the draw has to be noticed.
    one, other = (ids(aside(6, dataset(50), split_seed=seed).test_images) for seed in (0, 1))
    assert one == [5, 9, 21, 26, 31, 41] != other


@pytest.mark.parametrize("count", [10, 37, 549])
def test_stratified_has_every_class_in_proportion(count):
    # Unequal classes: 10, 20, ..., 100 examples, 550 in all; by chance, classes would be off by several.
    labels = np.repeat(np.arange(10, dtype=np.int32), np.arange(10, 110, 10))
    data = aside(count, dataset(labels=labels), stratified=True)
    counts = np.bincount(data.test_labels, minlength=10)
    assert counts.sum() == count
    assert np.abs(counts - np.arange(10, 110, 10) * count / 550).max() <= 1


@pytest.mark.parametrize("stratified", [False, True])
def test_fraction(stratified):
    tenth, fifth, other = (
        apply(fraction=part, stratified=stratified, split_seed=seed) for part, seed in ((0.1, 0), (0.2, 0), (0.1, 1))
    )
    assert (len(train(tenth)), len(train(fifth))) == (100, 200)
    assert set(train(tenth)) < set(train(fifth))  # nested
    assert train(tenth) == sorted(train(tenth))
    assert unchanged(tenth)
    assert tenth.test_images is WHOLE.test_images
    assert train(other) != train(tenth)
    assert tenth.summary()["splits"] == {"subset": {"fraction": 0.1, "seed": 0, "stratified": stratified}}
    # 0.29 * 100 is 28.999999999999996 in floating point.
    assert len(train(apply(dataset(100), fraction=0.29, stratified=stratified))) == 29


def test_per_class_is_balanced():
    five, ten = (apply(per_class=count) for count in (5, 10))
    assert np.bincount(five.train_labels).tolist() == [5] * 10
    assert np.bincount(ten.train_labels).tolist() == [10] * 10
    assert set(train(five)) < set(train(ten))
    assert train(ten) == sorted(train(ten))
    assert unchanged(ten)
    # Not the first ones of each class.
    assert train(ten) != sorted(np.concatenate([np.flatnonzero(WHOLE.train_labels == k)[:10] for k in range(10)]))
    assert ten.summary()["splits"] == {"subset": {"per_class": 10, "seed": 0}}


@pytest.mark.parametrize("rate", [0.001, 1.0])
def test_label_noise_replaces_exactly_that_many_by_other_classes(rate):
    data = apply(label_noise=rate)
    changed = data.train_labels != WHOLE.train_labels
    assert changed.sum() == round(1000 * rate)
    assert data.train_labels.dtype == np.int32
    assert data.train_images is WHOLE.train_images
    assert data.test_labels is WHOLE.test_labels
    assert data.summary()["splits"] == {"label_noise": {"rate": rate, "replaced": round(1000 * rate), "seed": 0}}
    assert data.summary()["sha256"] != WHOLE.summary()["sha256"]


def test_label_noise_is_uniform_over_the_other_classes_and_nested():
    labels = np.full(9000, 4, np.int32)
    counts = np.bincount(apply(dataset(labels=labels), label_noise=1.0).train_labels)
    assert (counts[4], len(counts)) == (0, CLASSES)
    # 1,000 expected in each of nine classes; the standard deviation is sqrt(9000 * 1/9 * 8/9) = 30.
    assert np.abs(np.delete(counts, 4) - 1000).max() < 120
    low, high, other = (
        apply(label_noise=rate, label_noise_seed=seed).train_labels for rate, seed in ((0.2, 0), (0.4, 0), (0.2, 1))
    )
    changed = low != WHOLE.train_labels
    np.testing.assert_array_equal(high[changed], low[changed])
    assert (other != low).sum() > 100
    assert WHOLE.train_labels.tolist() == dataset().train_labels.tolist()  # the whole is not written to


def test_all_together_in_order():
    data = aside(200, fraction=0.5, label_noise=0.25)
    assert (len(data.train_labels), len(data.test_labels)) == (400, 200)
    assert not set(train(data)) & set(ids(data.test_images))
    assert (data.train_labels != WHOLE.train_labels[train(data)]).sum() == 100
    # The validation labels stay clean.
    assert data.test_labels.tolist() == WHOLE.train_labels[ids(data.test_images)].tolist()
    assert list(data.summary()["splits"]) == ["validation", "subset", "label_noise"]


def test_no_split_moves_another():
    alone = ids(aside(200).test_images)
    for fields in ({"fraction": 0.5}, {"per_class": 7}, {"label_noise": 0.5}, {"label_noise_seed": 3}):
        assert ids(aside(200, **fields).test_images) == alone
    half = train(aside(200, fraction=0.5))
    assert train(aside(200, fraction=0.5, label_noise=0.5, label_noise_seed=1)) == half
    # Nor does the seed of the noise depend on that of the splits.
    one, two = (apply(label_noise=0.5, split_seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.train_labels, two.train_labels)


def test_streams_of_one_seed_are_not_the_same_numbers():
    # A validation set of 500, the half kept, the half with noise, the half that begins an epoch: by chance two of them
    # share about half.
    validation, kept = set(ids(aside(500).test_images)), set(train(apply(fraction=0.5)))
    noisy = set(np.flatnonzero(apply(label_noise=0.5).train_labels != WHOLE.train_labels).tolist())
    begins = [set(batches.epoch_order(0, epoch, 1000)[:500].tolist()) for epoch in range(8)]
    for one, two in ((validation, kept), (validation, noisy), (kept, noisy), *((noisy, begin) for begin in begins)):
        assert 200 < len(one & two) < 300


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation": 1000}, "data.validation=1000 must be less than the 1,000 training examples"),
        ({"fraction": 0.0}, "data.fraction=0.0 of 1,000 examples is less than one example"),
        ({"fraction": 0.0001}, "data.fraction=0.0001 of 1,000 examples is less than one example"),
        ({"per_class": 101}, "data.per_class=101: the class 'class "),
        ({"label_noise": 0.0001}, "data.label_noise=0.0001 of 1,000 training labels is less than one label"),
    ],
)
def test_more_than_there_is(fields, message):
    with pytest.raises(UserError) as caught:
        apply(**fields)
    assert str(caught.value).startswith(message)


def test_label_noise_needs_another_class():
    alone = replace(dataset(labels=np.zeros(5, np.int32)), class_names=("only",))
    with pytest.raises(UserError, match=r"data\.label_noise=0\.5 needs at least two classes; there is only 'only'"):
        apply(alone, label_noise=0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluate_on": "validation"}, "config.data.evaluate_on='validation' needs data.validation, such as 50"),
        ({"fraction": "0.5", "per_class": "10"}, "config.data.fraction=0.5 and data.per_class=10 exclude"),
        ({"stratified": "true"}, "config.data.stratified=True has nothing to divide: set data.validation"),
        ({"image_size": "64"}, "config.data.image_size=64: the source 'embedded' cannot"),
        ({"cutout": 33}, "config.data.cutout=33 must be at most config.data.image_size=32"),
        ({"mixup": 0.2, "cutmix": 1.0}, "config.data.cutmix=1.0 and config.data.mixup=0.2 exclude each other; set one"),
        ({"corruptions": "contrats"}, "config.data.corruptions=('contrats',) does not exist; did you mean 'contrast'?"),
        ({"corruptions": 3}, "config.data.corruptions=3 does not exist; choices: contrast"),
    ],
)
def test_a_mistake_in_the_config_of_the_data(fields, message):
    with pytest.raises(UserError) as caught:
        configs.apply(base.get_config(), {f"data.{name}": value for name, value in fields.items()})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
