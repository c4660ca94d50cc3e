"""The contact sheet: what the network is fed, class by class, before and after augmentation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from normres.data.dataset import Dataset

GAP, SCALE, LABEL = 4, 2, 96  # pixels between images, per pixel of an image, and for a class name


def contact_sheet(
    dataset: Dataset,
    path: Path,
    augmented: Callable[[np.ndarray], np.ndarray],
    per_class: int = 6,
) -> Path:
    """Writes a PNG: a row per class, the first images of it and the same ones augmented; returns its path.

    `augmented` takes and returns images_NHWC uint8.
    """
    height, width = dataset.train_images.shape[1:3]
    step_x, step_y = width * SCALE + GAP, height * SCALE + GAP
    classes = [c for c in range(len(dataset.class_names)) if np.any(dataset.train_labels == c)]
    size = (LABEL + 2 * per_class * step_x + 4 * GAP, 24 + len(classes) * step_y)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    starts = (LABEL, LABEL + per_class * step_x + 3 * GAP)
    for start, title in zip(starts, ("as stored", "as the network sees them"), strict=True):
        pen.text((start, 6), title, fill="black")
    for row, label in enumerate(classes):
        chosen = dataset.train_images[np.flatnonzero(dataset.train_labels == label)[:per_class]]
        top = 24 + row * step_y
        pen.text((4, top + step_y // 2 - 8), dataset.class_names[label], fill="black")
        for start, images in zip(starts, (chosen, augmented(chosen)), strict=True):
            for column, image in enumerate(images):
                tile = Image.fromarray(image).resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
                sheet.paste(tile, (start + column * step_x, top))
    sheet.save(path)
    return path
