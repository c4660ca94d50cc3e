"""Shifted and corrupted test sets, made on the fly: five severities each, after CIFAR-10-C.

Contrast, brightness, gaussian blur and gaussian noise have the formulas and amounts of CIFAR-10-C (Hendrycks,
Dietterich 2019, arXiv 1903.12261, and their make_cifar_c.py); `color_cast` is ours, a shift of the hue.  An
image's noise is a function of (seed, example), the same at every severity but for its amount.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from normres.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)
AT_ONCE = 256  # images that are corrupted together, to bound the memory


def contrast(image_HWC: jax.Array, amount: jax.Array, key: jax.Array) -> jax.Array:
    """Returns `amount` times the image's distance from its mean in each channel, plus that mean."""
    mean = image_HWC.mean(axis=(0, 1), keepdims=True)
    return (image_HWC - mean) * amount + mean


def brightness(image_HWC: jax.Array, amount: jax.Array, key: jax.Array) -> jax.Array:
    """Adds `amount` to the value of HSV, the largest channel, and keeps hue and saturation: channels scale alike."""
    value = image_HWC.max(axis=-1, keepdims=True)
    brighter = jnp.clip(value + amount, 0, 1)
    # Black has no hue; it becomes grey.
    return jnp.where(value > 0, image_HWC * (brighter / jnp.where(value > 0, value, 1.0)), brighter)


def color_cast(image_HWC: jax.Array, amount: jax.Array, key: jax.Array) -> jax.Array:
    """Adds a vector of length `amount` and random hue, at right angles to grey, so that the mean brightness stays.

    Channel c of 3 gets amount * sqrt(2 / 3) * cos(angle - 2 * pi * c / 3), the angle uniform.
    """
    angle = jax.random.uniform(key, maxval=2 * jnp.pi)
    shift = jnp.sqrt(2 / 3) * jnp.cos(angle - 2 * jnp.pi * jnp.arange(3) / 3)
    return image_HWC + amount * shift[None, None]


def gaussian_blur(image_HWC: jax.Array, amount: jax.Array, key: jax.Array) -> jax.Array:
    """Convolves with a Gaussian of `amount` pixels, cut after four of them; outside, the nearest pixel counts."""
    height, width = image_HWC.shape[:2]
    reach = int(4 * max(CORRUPTIONS["gaussian_blur"][1]) + 0.5)
    apart = jnp.arange(-reach, reach + 1)
    weights = jnp.where(jnp.abs(apart) <= jnp.floor(4 * amount + 0.5), jnp.exp(-((apart / amount) ** 2) / 2), 0.0)
    weights /= weights.sum()
    padded = jnp.pad(image_HWC, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = sum((weights[k] * padded[k : k + height] for k in range(2 * reach + 1)), jnp.zeros(()))
    return sum((weights[k] * rows[:, k : k + width] for k in range(2 * reach + 1)), jnp.zeros(()))


def gaussian_noise(image_HWC: jax.Array, amount: jax.Array, key: jax.Array) -> jax.Array:
    """Adds normal noise of standard deviation `amount`, independent in every pixel and channel."""
    return image_HWC + amount * jax.random.normal(key, image_HWC.shape)


# What is done to an image in [0, 1], and how much of it at each of the five severities.
CORRUPTIONS: dict[str, tuple[Callable[[jax.Array, jax.Array, jax.Array], jax.Array], tuple[float, ...]]] = {
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "color_cast": (color_cast, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.1)),
}


def check(names: Sequence[str], channels: int) -> None:
    """Raises UserError if images of so many channels have no such corruption."""
    if "color_cast" in names and channels != 3:
        raise UserError(f"config.data.corruptions: color_cast is of images with 3 channels, and these have {channels}")


@partial(jax.jit, static_argnames="name")
def corrupt(images_NHWC: jax.Array, examples: jax.Array, name: str, severity: jax.Array, seed: jax.Array) -> jax.Array:
    """Returns uint8 images (N, H, W, C) under a corruption, uint8; `severity` is 1 to 5.

    `examples` (N,) are the images' numbers in their data set, of which, and of `seed`, their noise is made.
    """
    apply, amounts = CORRUPTIONS[name]
    amount = jnp.array(amounts)[severity - 1]

    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, example = pair
        key = jax.random.fold_in(jax.random.key(seed), example)
        corrupted = apply(image.astype(jnp.float32) / 255, amount, key)
        # CIFAR-10-C truncates; a thousandth of a level keeps float32 from losing a whole one.
        return (jnp.clip(corrupted, 0, 1) * 255 + 1e-3).astype(jnp.uint8)

    return jax.lax.map(one, (images_NHWC, examples), batch_size=AT_ONCE)


def errors(config: ConfigDict, evaluate: Callable[..., dict[str, float] | None]) -> dict[str, list[float]] | None:
    """Returns the errors at severities 1 to 5 by corruption; None as soon as `evaluate` returns None.

    `config` is config.data.  evaluate(change=...) takes a function of uint8 images and their numbers in the data set
    that returns them corrupted, uint8; it returns at least "error".
    """
    seed = np.uint32(config.corruption_seed % 2**32)
    errors_of: dict[str, list[float]] = {}
    for name in config.corruptions:
        for severity in SEVERITIES:
            values = evaluate(change=partial(corrupt, name=name, severity=np.int32(severity), seed=seed))
            if values is None:
                return None
            errors_of.setdefault(name, []).append(values["error"])
    return errors_of
