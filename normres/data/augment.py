"""From uint8 images to what the network sees, inside the jitted step: pure functions of (images, key)."""

import jax
import jax.numpy as jnp
import numpy as np

PAD = 4  # pixels on every side, as in both ResNet papers


def mean_image(images: np.ndarray, subtract: str) -> np.ndarray:
    """Returns what is subtracted from images_NHWC (uint8): float32 in [0, 1] units, broadcastable to (1, H, W, C).

    Summed exactly, as integers.  `subtract` is pixel_mean (one value per position and channel), channel_mean or none.
    """
    if subtract == "none":
        return np.zeros((1, 1, 1, 1), np.float32)
    total = images.sum(axis=0, dtype=np.int64) / (len(images) * 255.0)
    if subtract == "channel_mean":
        total = total.mean(axis=(0, 1), keepdims=True)
    return total[None].astype(np.float32)


def centered(images: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns images / 255 - mean as float32."""
    return images.astype(jnp.float32) / 255 - mean


def crop_flip(images_NHWC: jax.Array, keys: jax.Array) -> jax.Array:
    """Pads each image by PAD zeros, crops it back to its size at a random place and flips every second one.

    Args:
      images_NHWC: (N, H, W, C), centered, so that zeros are the mean colour.
      keys: (N,), one random key per image, so that an image's crop depends on nothing else.
    """
    height, width = images_NHWC.shape[1:3]

    def draw(key: jax.Array) -> jax.Array:
        place, flip = jax.random.split(key)
        corner = jax.random.randint(place, (2,), 0, 2 * PAD + 1)
        return jnp.append(corner, jax.random.bernoulli(flip))

    drawn = jax.vmap(draw)(keys)
    rows = drawn[:, :1] + jnp.arange(height)[None]
    columns = drawn[:, 1:2] + jnp.arange(width)[None]
    columns = jnp.where(drawn[:, 2:] == 1, columns[:, ::-1], columns)
    padded = jnp.pad(images_NHWC, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    example = jnp.arange(len(images_NHWC))[:, None, None]
    return padded[example, rows[:, :, None], columns[:, None, :]]
