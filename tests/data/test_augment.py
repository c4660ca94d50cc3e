"""Augmentation against numpy from the papers' formulas, on one device and on two."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import stats
from small_run import programs

from normres.data import augment
from normres.runs import config as configs
from normres.training.losses import cross_entropy

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
LABELS = RANDOM.integers(0, 10, 40).astype(np.int32)
KEYS = jax.random.split(jax.random.key(0), 40)


@pytest.mark.parametrize("padding", augment.PADDINGS)
def test_crop_flip_gives_every_window_of_the_padded_image(padding):
    # Every pixel of this image is different and none is zero, so a window tells where it was cut and whether flipped.
    image = np.arange(1, 6 * 6 + 1, dtype=np.float32).reshape(6, 6, 1)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode=augment.PADDINGS[padding])
    windows = {}
    for row in range(9):
        for column in range(9):
            window = padded[row : row + 6, column : column + 6]
            windows[window.tobytes()] = (row, column, False)
            windows[np.ascontiguousarray(window[:, ::-1]).tobytes()] = (row, column, True)
    keys = jax.random.split(jax.random.key(0), 2_000)
    crop_flip = jax.jit(augment.crop_flip, static_argnums=2)
    cut = np.asarray(crop_flip(np.broadcast_to(image, (2_000, 6, 6, 1)), keys, padding))
    places = [windows[np.ascontiguousarray(one).tobytes()] for one in cut]  # a KeyError is a window that is none
    rows, columns, flips = (np.array(values) for values in zip(*places, strict=True))
    # An image's crop depends on its own key alone.
    np.testing.assert_array_equal(cut[3:5], augment.crop_flip(np.broadcast_to(image, (2, 6, 6, 1)), keys[3:5], padding))
    if padding == "reflect":  # of a reflected image, some windows are others flipped
        return
    # 2,000 draws: each of 9 places 222 +- 14, each side 1,000 +- 22; five standard deviations.
    assert np.abs(np.bincount(rows, minlength=9) - 222).max() < 70
    assert np.abs(np.bincount(columns, minlength=9) - 222).max() < 70
    assert abs(flips.sum() - 1_000) < 112
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.12


@pytest.mark.parametrize(("padding", "shape"), [("zero", (32, 32)), ("reflect", (9, 12))])
def test_products_move_the_same_pixels_as_slices(padding, shape):
    images = jnp.asarray(np.random.default_rng(0).standard_normal((64, *shape, 3)), jnp.float32)
    drawn = jax.vmap(augment._draw)(jax.random.split(jax.random.key(1), len(images)))
    assert len(np.unique(drawn[:, 2])) == 2
    by_slices, by_products = (
        jax.jit(partial(way, padding=padding))(images, drawn) for way in (augment.by_slices, augment.by_products)
    )
    np.testing.assert_array_equal(by_products, by_slices)


def test_flip_flips_what_crop_flip_flips():
    images = jnp.asarray(IMAGES, jnp.float32)
    flipped = np.asarray(augment.flip(images, KEYS))
    which = [bool(np.array_equal(a, b[:, ::-1])) for a, b in zip(flipped, images, strict=True)]
    kept = [bool(np.array_equal(a, b)) for a, b in zip(flipped, images, strict=True)]
    assert [not one for one in kept] == which
    assert 8 < sum(which) < 32
    # Wherever it is cut, the middle of this ramp rises from left to right, and falls if it is flipped.
    ramp = jnp.broadcast_to(jnp.arange(40.0)[None, None, :, None], (40, 8, 40, 1))
    middle = np.asarray(augment.crop_flip(ramp, KEYS, "reflect"))[:, 4, 20:22, 0]
    np.testing.assert_array_equal(middle[:, 1] < middle[:, 0], which)


@pytest.mark.parametrize("side", [3, 16])
def test_cutout_sets_a_square_around_any_pixel_to_zero(side):
    keys = jax.random.split(jax.random.key(1), 3_000)
    cut = np.asarray(jax.jit(augment.cutout, static_argnums=2)(jnp.ones((3_000, 8, 8, 3)), keys, side)) == 0
    assert (cut == cut[..., :1]).all()  # all channels alike
    cut = cut[..., 0]
    # By hand: the square of each center, from center - side // 2 on, as far as it lies in the image.
    centers = {}
    for row in range(8):
        for column in range(8):
            square = np.zeros((8, 8), bool)
            top, left = row - side // 2, column - side // 2
            square[max(0, top) : top + side, max(0, left) : left + side] = True
            centers[square.tobytes()] = centers.get(square.tobytes(), 0) + 1
    counts = dict.fromkeys(centers, 0)
    for one in cut:
        counts[one.tobytes()] += 1  # a KeyError is something else than a square
    assert cut.sum((1, 2)).max() == min(side, 8) ** 2
    # Every center is as probable as any other: 3,000 / 64 = 47 +- 7 draws of each, five standard deviations.
    for square, number in centers.items():
        assert abs(counts[square] - 47 * number) < 5 * 7 * number**0.5 + number


def test_mixup_is_its_formula_with_a_beta_distributed_share():
    images, others = (RANDOM.normal(size=(4, 8, 8, 3)).astype(np.float32) for _ in range(2))
    keys = jax.random.split(jax.random.key(2), 2_000)
    mixed, shares = jax.jit(jax.vmap(lambda key: augment.mixup(images, others, key, 0.2)))(keys)
    share = shares[:3, None, None, None, None]
    expected = share * images[None] + (1 - share) * others[None]
    np.testing.assert_allclose(mixed[:3], expected, rtol=1e-5, atol=1e-6)
    # float32 rounds shares near 1 to 1, which the test of the distribution takes.
    assert stats.kstest(np.asarray(shares), stats.beta(0.2, 0.2).cdf).pvalue > 1e-3


def test_cutmix_takes_a_box_and_counts_its_pixels():
    keys = jax.random.split(jax.random.key(4), 2_000)
    ones, zeros = jnp.ones((2, 8, 12, 3)), jnp.zeros((2, 8, 12, 3))
    mixed, shares = jax.jit(jax.vmap(lambda key: augment.cutmix(ones, zeros, key, 1.0)))(keys)
    np.testing.assert_allclose(np.mean(mixed, (1, 2, 3, 4)), shares, atol=1e-6)
    assert np.ptp(mixed, axis=(1, 4)).max() == 0
    for image in np.asarray(mixed)[:, 0, :, :, 0]:
        rows, columns = np.flatnonzero((image == 0).any(1)), np.flatnonzero((image == 0).any(0))
        # The whole box between its first and last row and column is cut out, and nothing else.
        box = np.ones_like(image)
        if rows.size:
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 0
        np.testing.assert_array_equal(image, box)
    # By hand with numpy, the paper's algorithm: the pixels that are left after boxes are cut at the edges.
    random = np.random.default_rng(5)
    left = []
    for _ in range(20_000):
        height, width = (np.array([8, 12]) * np.sqrt(1 - random.beta(1, 1))).astype(int)
        top, start = random.integers(8) - height // 2, random.integers(12) - width // 2
        inside = (min(8, top + height) - max(0, top)) * (min(12, start + width) - max(0, start))
        left.append(96 - inside)
    pixels = np.round(96 * np.asarray(shares))
    assert pixels.mean() == pytest.approx(np.mean(left), abs=5 * np.std(left) / np.sqrt(2_000))
    assert stats.ks_2samp(pixels, left).pvalue > 1e-3


def test_cutmix_is_applied_at_its_share_of_the_steps():
    image, keys = jnp.ones((1, 8, 8, 1)), jax.random.split(jax.random.key(6), 2_000)

    def boxes(probability):
        draw = jax.jit(jax.vmap(lambda key: augment.cutmix(image, image, key, 1.0, probability)))
        return int((draw(keys)[1] < 1).sum())

    # Of the draws whose box has pixels, a quarter; five standard deviations of sqrt(0.25 * 0.75 / n).
    count = boxes(1.0)
    assert count > 1_500
    assert boxes(0.25) / count == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / count))


def test_a_step_without_cutmix_has_the_plain_loss_and_error():
    built = programs(data__cutmix=1.0, data__cutmix_probability=0.5, data__augmentation="none")
    plain = configs.apply(built.config, {"data.cutmix": 0})
    always = configs.apply(built.config, {"data.cutmix_probability": 1})
    other = configs.apply(always, {"seeds.augmentation": 5})
    logits = jnp.asarray(RANDOM.normal(size=(16, 10)), jnp.float32)
    applied = []
    for step in range(8):
        indices = built.examples(step)
        images, targets = augment.training_batch(built.config, jnp.int32(step), built.data["train"], indices)
        mixed, all_targets = augment.training_batch(always, jnp.int32(step), built.data["train"], indices)
        changed, _ = augment.training_batch(other, jnp.int32(step), built.data["train"], indices)
        assert np.any(changed != mixed)  # the boxes follow the seed of augmentation
        alone, own = augment.training_batch(plain, jnp.int32(step), built.data["train"], indices[:, 0])
        applied.append(bool(targets.share < 1))
        same, like = (mixed, all_targets) if applied[-1] else (alone, own)
        np.testing.assert_array_equal(images, same)
        loss = partial(cross_entropy, logits)
        np.testing.assert_array_equal(targets.mixed(loss), like.mixed(loss))
        np.testing.assert_array_equal(targets.right, like.right)
        np.testing.assert_array_equal(targets.labels, own.labels)
    assert 0 < sum(applied) < 8


def test_the_label_with_the_larger_share_is_right():
    labels, others = jnp.arange(6), jnp.arange(6)[::-1]
    np.testing.assert_array_equal(augment.Targets(labels, others, jnp.float32(0.3)).right, others)
    np.testing.assert_array_equal(augment.Targets(labels, others, jnp.float32(0.5)).right, labels)


@pytest.mark.parametrize(
    ("parallel", "data"),
    [
        ("jit", {"preprocess": "channel_mean_std", "augmentation": "crop_flip", "padding": "reflect", "cutout": 4}),
        ("pmap", {"preprocess": "image_standardization", "augmentation": "flip", "cutout": 3, "cutmix": 1.0}),
    ],
)
def test_two_devices_see_the_batch_of_one_bit_for_bit(parallel, data):
    fields = {f"data__{name}": value for name, value in data.items()}
    one, two = programs(1, **fields), programs(2, **fields)
    seen = []
    for built in (one, two):
        batch = partial(augment.training_batch, built.config)
        if built is two and parallel == "pmap":
            mixed = augment.mixes(built.config)
            targets = augment.Targets(P("data"), P("data") if mixed else None, P() if mixed else None)
            specs = {"in_specs": (P(), P(), P("data")), "out_specs": (P("data"), targets)}
            batch = jax.shard_map(batch, mesh=built.sharded.mesh, check_vma=False, **specs)
        compiled = jax.jit(batch)
        seen.append([compiled(jnp.int32(step), built.data["train"], built.examples(step)) for step in (0, 3)])
    for a, b in zip(*map(jax.tree.leaves, seen), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(seen[0][0][0] != seen[0][1][0])  # another step, another batch
