"""The source `binary`: the official binary files of CIFAR-10 and CIFAR-100, in a folder or a tar archive.

A file is a sequence of records: the label bytes (CIFAR-10: one; CIFAR-100: coarse, then fine), then 3,072
pixel bytes, channel-major: the 32x32 red plane row by row, then green, then blue.
"""

import numpy as np

from normres.data.dataset import Dataset
from normres.data.official import ALTERED, LAYOUTS, Content, Layout, check_md5, check_names, read
from normres.errors import UserError

PIXELS = 32 * 32 * 3  # bytes of pixels in one record


def load_binary(name: str, path: str, verify: bool = True) -> Dataset:
    """Returns the data set in the official order, read from the official binary files under `path`.

    `path` is the folder of the files, its parent, or a .tar.gz or .tar archive of it; archives are read in
    memory, nothing is unpacked onto the disk.
    `verify` compares the number of records with the official one, and the md5 of CIFAR-10's files or of CIFAR-100's
    .tar.gz.  No md5 of CIFAR-100's files is known, so in a folder (or .tar) of them a changed pixel is not noticed; as
    many records of each class, fine and coarse, are demanded there.  Whole records and labels in range are, always.
    Raises `UserError`, one line, naming the file and what to do about it.
    """
    layout = LAYOUTS["binary", name]
    where, files = read(layout, path, verify)
    class_names = _class_names(layout, where, files)
    train_images, train_labels = _decode(layout, layout.train_records, where, files, verify)
    test_images, test_labels = _decode(layout, layout.test_records, where, files, verify)
    return Dataset(name, "binary", train_images, train_labels, test_images, test_labels, class_names)


def _record_bytes(layout: Layout) -> int:
    """Returns the bytes in one record: the label bytes and the pixels."""
    return len(layout.label_classes) + PIXELS


def _class_names(layout: Layout, where: str, files: dict[str, Content]) -> tuple[str, ...]:
    """Returns the class names, from the names file where there is one."""
    if layout.names_file not in files:
        if layout.names:
            return layout.names
        raise UserError(f"data.path: {where}{layout.names_file} is missing; it names the classes")
    lines = files[layout.names_file].decode("utf-8", errors="replace").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    return check_names(layout, f"{where}{layout.names_file}", names)


def _decode(
    layout: Layout, records: dict[str, int], where: str, files: dict[str, Content], verify: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, 32, 32, 3) and labels (N,) of these files; takes their bytes out of `files`."""
    for file, official_records in records.items():
        _check_file(layout, file, official_records, f"{where}{file}", files[file], verify)
        if verify and file not in layout.md5:
            _check_balance(layout, f"{where}{file}", files[file])
    total = sum(len(files[file]) for file in records) // _record_bytes(layout)
    images = np.empty((total, 32 * 32, 3), np.uint8)
    labels = np.empty(total, np.int32)
    start = 0
    for file in records:
        # Popped, so that the peak is one copy of the data and one file, not two copies.
        table = np.frombuffer(files.pop(file), np.uint8).reshape(-1, _record_bytes(layout))
        stop = start + len(table)
        first_pixel = len(layout.label_classes)
        labels[start:stop] = table[:, first_pixel - 1]
        # Plane by plane reads whole rows of memory: three times faster than one 4-D transpose.
        for channel in range(3):
            plane = first_pixel + channel * 1024
            images[start:stop, :, channel] = table[:, plane : plane + 1024]
        start = stop
    return images.reshape(total, 32, 32, 3), labels


def _check_file(layout: Layout, file: str, official_records: int, what: str, content: Content, verify: bool) -> None:
    """Raises `UserError` unless `content` is whole records with labels in range and, verified, official."""
    count, rest = divmod(len(content), _record_bytes(layout))
    if rest or not count:
        raise UserError(
            f"data.path: {what} has {len(content):,} bytes, not a whole number of "
            f"{_record_bytes(layout):,}-byte records: truncated or not {layout.title}; {layout.again}"
        )
    if verify and count != official_records:
        raise UserError(
            f"data.path: {what} has {count:,} records, not the official {official_records:,}; {layout.again}, {ALTERED}"
        )
    if verify:
        check_md5(layout, file, what, content)
    table = np.frombuffer(content, np.uint8).reshape(-1, _record_bytes(layout))
    for byte, classes in enumerate(layout.label_classes):
        highest = int(table[:, byte].max())
        if highest >= classes:
            record = int(table[:, byte].argmax())
            raise UserError(
                f"data.path: {what} has label {highest} in record {record}, outside 0..{classes - 1}: "
                f"damaged or not {layout.title}; {layout.again}"
            )


def _check_balance(layout: Layout, what: str, content: Content) -> None:
    """Raises `UserError` unless each class has as many records, and each fine class one coarse class."""
    table = np.frombuffer(content, np.uint8).reshape(-1, _record_bytes(layout))
    for byte, classes in enumerate(layout.label_classes):
        counts = np.bincount(table[:, byte], minlength=classes)
        if counts.min() != counts.max():
            odd = int(np.abs(counts - len(table) / classes).argmax())  # the first of those furthest off
            raise UserError(
                f"data.path: {what} has {counts[odd]:,} records of label {odd} in byte {byte}, not "
                f"{len(table) // classes:,}: damaged or altered; {layout.again}, {ALTERED}"
            )
    pairs = len(np.unique(table[:, : len(layout.label_classes)], axis=0))
    if pairs != layout.label_classes[-1]:
        raise UserError(
            f"data.path: {what} has {pairs} pairs of a coarse and a fine class, not {layout.label_classes[-1]}: "
            f"damaged or altered; {layout.again}, {ALTERED}"
        )
