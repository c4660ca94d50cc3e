"""Augmentation inside the jitted step: an image's is a function of (seed, step, image), a mixture's of (seed, step).

Nothing depends on how many devices share the batch: an image's key is made of its index, and its partner in a mixture
comes with the index (batches.with_partners).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from normres.data.batches import look_up
from normres.data.preprocess import preprocess
from normres.data.seeds import step_key

PAD = 4  # pixels on every side, as in both ResNet papers
PADDINGS = {"zero": "constant", "reflect": "reflect"}  # numpy's names of them

# Folded into keys.  crop_flip splits an image's key in two, cutmix a mixture's; 2 is not among the two.
_CUTOUT, _APPLIED = 2, 2
_MIXTURE = 2**32 - 1  # folded into the step's key, where an image's index would be


def _draw(key: jax.Array) -> jax.Array:
    """Returns (row, column) of the crop's corner, 0 to 2 * PAD, and 1 if the image is flipped, as int32 (3,)."""
    place, flip = jax.random.split(key)
    corner = jax.random.randint(place, (2,), 0, 2 * PAD + 1)
    return jnp.append(corner, jax.random.bernoulli(flip))


def crop_flip(images_NHWC: jax.Array, keys: jax.Array, padding: str = "zero") -> jax.Array:
    """Pads each image by PAD pixels, crops it back to its size at a random place and flips every second one.

    The images are centered, so that zeros are the mean colour; `keys` (N,) has one random key per image; `padding` is
    zero, or reflect (Zagoruyko, Komodakis 2016), which does not repeat the edge.
    """
    # A TPU would cut the slices out in a loop over the images; products with ones and zeros are exact.
    ways = {"tpu": partial(by_products, padding=padding), "default": partial(by_slices, padding=padding)}
    return lax.platform_dependent(images_NHWC, jax.vmap(_draw)(keys), **ways)


def by_slices(images_NHWC: jax.Array, drawn: jax.Array, padding: str) -> jax.Array:
    """Crops and flips as `drawn` (N, 3) says; see _draw."""

    def cut(image: jax.Array, drawn: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (drawn[0], drawn[1], 0), images_NHWC.shape[1:])

    padded = jnp.pad(images_NHWC, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)), mode=PADDINGS[padding])
    return _flipped(jax.vmap(cut)(padded, drawn), drawn)


def by_products(images_NHWC: jax.Array, drawn: jax.Array, padding: str) -> jax.Array:
    """The same as by_slices, as products with matrices of which each row has a single one, or none outside."""

    def matrices(corners: jax.Array, size: int) -> jax.Array:
        places = corners[:, None] - PAD + jnp.arange(size)[None]
        if padding == "reflect":
            places = jnp.abs(places)
            places = jnp.where(places >= size, 2 * (size - 1) - places, places)
        return jax.nn.one_hot(places, size, dtype=images_NHWC.dtype)

    rows = matrices(drawn[:, 0], images_NHWC.shape[1])
    columns = matrices(drawn[:, 1], images_NHWC.shape[2])
    columns = jnp.where(drawn[:, 2, None, None] == 1, columns[:, ::-1], columns)
    cropped = jnp.einsum("nhk,nkwc->nhwc", rows, images_NHWC, precision="highest")
    return jnp.einsum("nvw,nhwc->nhvc", columns, cropped, precision="highest")


def _flipped(images_NHWC: jax.Array, drawn: jax.Array) -> jax.Array:
    """Flips the images for which the third number of `drawn` (N, 3) is 1."""
    return jnp.where(drawn[:, 2, None, None, None] == 1, images_NHWC[:, :, ::-1], images_NHWC)


def flip(images_NHWC: jax.Array, keys: jax.Array, padding: str = "zero") -> jax.Array:
    """Flips the images that crop_flip flips at the same keys, and does not move them; `padding` is not read."""
    return _flipped(images_NHWC, jax.vmap(_draw)(keys))


# What moves an image: (images, keys, padding) -> images.
AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array, str], jax.Array]] = {
    "crop_flip": crop_flip,
    "flip": flip,
    "none": lambda images, keys, padding: images,
}


def _box(key: jax.Array, sides: Any, height: int, width: int) -> jax.Array:
    """Returns a boolean (H, W): true in the box of `sides` around any pixel, each as probable, cut at the edges."""
    start = jax.random.randint(key, (2,), 0, jnp.array([height, width])) - jnp.asarray(sides) // 2
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= start[0]) & (rows < start[0] + sides[0])
    in_columns = (columns >= start[1]) & (columns < start[1] + sides[1])
    return in_rows[:, None] & in_columns[None, :]


def cutout(images_NHWC: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """Sets a square of `side` pixels to zero in each image: Cutout (DeVries, Taylor 2017, arXiv 1708.04552).

    The square's center may be any pixel, so a part of the square may lie outside the image.
    """
    height, width = images_NHWC.shape[1:3]
    square = jax.vmap(lambda key: _box(key, (side, side), height, width))(keys)
    return jnp.where(square[..., None], 0.0, images_NHWC)


def mixup(images: jax.Array, others: jax.Array, key: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Returns lambda * images + (1 - lambda) * others and lambda ~ Beta(alpha, alpha), one for the batch.

    mixup (Zhang, Cisse, Dauphin, Lopez-Paz 2017, arXiv 1710.09412, figure 1).
    """
    share = jax.random.beta(key, alpha, alpha)
    return share * images + (1 - share) * others, share


def cutmix(
    images: jax.Array, others: jax.Array, key: jax.Array, alpha: float, probability: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns images with a box from others, and the share of pixels that is the images' own; one box for the batch.

    CutMix (Yun et al. 2019, arXiv 1905.04899, equation 2): lambda ~ Beta(alpha, alpha), a box of sqrt(1 - lambda) of
    height and width around any pixel, cut at the edges.  With 1 - `probability` the batch stays as it is, at share 1.
    """
    height, width = images.shape[1:3]
    of_share, of_place = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(of_share, alpha, alpha))
    if probability < 1:
        # A key of its own, so that the boxes that are left are those of probability 1; a box of no side has no pixel.
        side *= jax.random.bernoulli(jax.random.fold_in(key, _APPLIED), probability)
    sides = (side * jnp.array([height, width])).astype(jnp.int32)
    inside = _box(of_place, sides, height, width)
    share = 1 - inside.sum() / inside.size
    return jnp.where(inside[None, :, :, None], others, images), share


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Targets:
    """What the network should say: `labels` int32 (B,), or, of mixed images, labels with `share` and others without.

    `others` int32 (B,) and `share` float32 () are None where nothing is mixed.
    """

    labels: jax.Array
    others: jax.Array | None = None
    share: jax.Array | None = None

    def mixed(self, value: Callable[[jax.Array], Any]) -> Any:
        """Returns share * value(labels) + (1 - share) * value(others); a value is a tree of arrays (B,)."""
        if self.others is None or self.share is None:
            return value(self.labels)
        share = self.share
        return jax.tree.map(lambda x, y: share * x + (1 - share) * y, value(self.labels), value(self.others))

    @property
    def right(self) -> jax.Array:
        """The right answers, int32 (B,); for a mixed image the label with the larger share."""
        if self.others is None or self.share is None:
            return self.labels
        return jnp.where(self.share >= 0.5, self.labels, self.others)


def training_batch(
    config: ConfigDict, step: jax.Array, data: dict[str, Any], indices: jax.Array
) -> tuple[jax.Array, Targets]:
    """Returns the batch of a step as the network sees it, images float32 (B, H, W, C), and its targets.

    `data` is as of batches.look_up, with the arrays of preprocess.Statistics; `indices` int32 (B,), or (B, 2) with the
    partners where config.data mixes images.
    """
    chosen = config.data
    key = step_key(config, "augmentation", step)
    images, labels = look_up(data, indices)

    def seen(images: jax.Array, indices: jax.Array) -> jax.Array:
        images = preprocess(chosen.preprocess, images, data)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
        images = AUGMENTATIONS[chosen.augmentation](images, keys, chosen.padding)
        if chosen.cutout:
            images = cutout(images, jax.vmap(jax.random.fold_in, (0, None))(keys, _CUTOUT), chosen.cutout)
        return images

    if not mixes(config):
        return seen(images, indices), Targets(labels)
    own, partner = (seen(images[:, member], indices[:, member]) for member in (0, 1))
    mixture = jax.random.fold_in(key, _MIXTURE)
    if chosen.mixup:
        mixed, share = mixup(own, partner, mixture, chosen.mixup)
    else:
        mixed, share = cutmix(own, partner, mixture, chosen.cutmix, chosen.cutmix_probability)
    return mixed, Targets(labels[:, 0], labels[:, 1], share)


def mixes(config: ConfigDict) -> bool:
    """Returns whether each training image is mixed with another one."""
    return bool(config.data.mixup or config.data.cutmix)
