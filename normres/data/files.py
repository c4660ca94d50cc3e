"""What the sources that read files have in common: paths, libraries, images, and one line for what cannot be read."""

import io
import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from normres.errors import UserError


def one_line(error: Exception) -> str:
    """Returns an error's text on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def find(path: str, wanted: str) -> Path:
    """Returns where `path` lies, `~` expanded; `wanted` says what it should hold."""
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:  # there is no such user
        raise UserError(f"data.path: {path} cannot be read: {one_line(error)}") from error
    if not place.exists():
        raise UserError(f"data.path: {place} does not exist; {wanted}")
    return place


def physical_memory() -> int:
    """Returns the bytes that this process may use: the machine's, or those of its control group (a container's)."""
    least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError):  # Linux alone has groups
        own = Path("/sys/fs/cgroup" + Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip())
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError):  # "max"
                least = min(least, int((folder / "memory.max").read_text()))
    return least


def must_fit(count: int, image_shape: tuple[int, ...], what: str) -> None:
    """Raises UserError, a line that begins with `what`, if so many images take more than half of the memory.

    They are copied at least once: out of a list, or to the device.
    """
    size, memory = count * math.prod(image_shape), physical_memory()
    if size > memory / 2:
        raise UserError(
            f"{what}: {count:,} images of {'x'.join(map(str, image_shape))} take {size / 1e9:,.1f} GB, more than half "
            f"of the memory, {memory / 1e9:,.1f} GB; lower data.image_size"
        )


def decoded(count: int, examples: Iterable[tuple[str, bytes, int]], size: int, what: str) -> tuple[Any, Any]:
    """Returns images uint8 (count, size, size, 3) and labels (count,) of examples: where, encoded image, label.

    Raises `UserError`, one line that begins with `what` or where, if they take too much memory or one is damaged.
    """
    must_fit(count, (size, size, 3), what)
    images, labels = np.empty((count, size, size, 3), np.uint8), np.empty(count, np.int64)
    for number, (where, content, label) in enumerate(examples):
        try:
            images[number], labels[number] = decode(content, size), label
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise UserError(f"{where} is no readable PNG or JPEG image ({one_line(error)})") from error
    return images, labels


def decode(content: bytes, size: int, mode: str = "RGB", formats: tuple[str, ...] = ("PNG", "JPEG")) -> np.ndarray:
    """Returns an encoded image as uint8 (size, size, C), with the channels of a mode of Pillow's.

    The shorter side is scaled to `size` pixels and the middle cut out; a picture that is (size, size) keeps its pixels.
    Of no `formats`, it may have any that Pillow reads, and is trusted not to be damaged.
    """
    if formats:
        with Image.open(io.BytesIO(content), formats=formats) as unread:
            unread.verify()  # the checksums of a PNG file's chunks, which reading its pixels does not compare
    with Image.open(io.BytesIO(content), formats=formats or None) as opened:
        # Pillow would clip levels of 16 bits at 255; of colours it takes the high byte, as here.
        deep = opened.mode.startswith("I;16") or (opened.mode == "I" and opened.format == "PPM")
        picture = (Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)) if deep else opened).convert(mode)
    width, height = picture.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    return np.asarray(picture).reshape(size, size, -1)
