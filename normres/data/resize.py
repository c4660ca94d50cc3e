"""How an image of any size becomes a square one, for every source that resizes."""

import io

import numpy as np
from PIL import Image

from normres.data.places import one_line
from normres.errors import UserError


def square(picture: Image.Image, size: int) -> np.ndarray:
    """Returns the picture as uint8 (size, size, C): its shorter side scaled to `size` pixels, the middle cut out.

    One that is (size, size) already keeps its pixels.
    """
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode(content: bytes, size: int, what: str) -> np.ndarray:
    """Returns an encoded PNG or JPEG as uint8 (size, size, 3), RGB.

    Raises `UserError`, one line that begins with `what`, for a damaged one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as unread:
            unread.verify()  # the checksums of a PNG file's chunks, which reading its pixels does not compare
        with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as opened:
            return square(opened.convert("RGB"), size)
    # Pillow reports a damaged PNG chunk as SyntaxError, a file of too many pixels as DecompressionBombError.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{what} is no readable PNG or JPEG image ({one_line(error)})") from error
