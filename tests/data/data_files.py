"""Writes small files in the layouts of the official releases, for the tests of the data sources."""

import gzip
import http.server
import io
import struct
import tarfile
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from normres.data import load, prepared
from normres.errors import UserError

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CIFAR10_FILES = [f"{batch}.bin" for batch in BATCHES]


def record(*labels, pixels=None, value=0):
    """One record of the binary version: the label bytes, then 3,072 pixel bytes."""
    if pixels is None:
        pixels = np.full(3072, value, np.uint8)
    assert pixels.shape == (3072,)
    return bytes(labels) + pixels.tobytes()


def binary10(parent):
    """CIFAR-10's binary version with two records a file; a blank line ends the names file."""
    folder = parent / "cifar-10-batches-bin"
    folder.mkdir()
    for number, file in enumerate(CIFAR10_FILES):
        folder.joinpath(file).write_bytes(record(number, value=10 * number) + record(9, value=10 * number + 1))
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return folder


def binary100(parent):
    """CIFAR-100's binary version with two training records and one test record."""
    folder = parent / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(record(19, 99, value=1) + record(3, 42, value=2))
    (folder / "test.bin").write_bytes(record(0, 7, value=3))
    (folder / "fine_label_names.txt").write_text("".join(f"fine_{number}\n" for number in range(100)))
    (folder / "coarse_label_names.txt").write_text("".join(f"coarse_{number}\n" for number in range(20)))
    return folder


def text(value):
    """A string as Python 2 pickles it: SHORT_BINSTRING or BINSTRING."""
    value = value.encode() if isinstance(value, str) else value
    return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value


def integer(value):
    return b"J" + struct.pack("<i", value)


def listed(items):
    return b"](" + b"".join(items) + b"e"


def array(pixels):
    """A uint8 array as numpy pickled it under Python 2, opcode by opcode."""
    dtype = b"cnumpy\ndtype\n(" + text("u1") + integer(0) + integer(1) + b"tR("
    dtype += integer(3) + text("|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + integer(0) + b"t" + text("b") + b"tR"
    shape = b"(" + b"".join(map(integer, pixels.shape)) + b"t"
    return empty + b"(" + integer(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"


def pickled(**items):
    """A dict as Python 2 pickles it, protocol 2; the values are opcodes."""
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in items.items()) + b"u."


def batch(*labels, values, **more):
    """One file of CIFAR-10's python version: image i is all of value i."""
    pixels = np.repeat(np.array(values, np.uint8)[:, None], 3072, axis=1)
    names = listed([text(f"image_{number}.png") for number in range(len(labels))])
    title = text("training batch 1 of 5")
    items = {"batch_label": title, "labels": listed([*map(integer, labels)]), "data": array(pixels), "filenames": names}
    return pickled(**(items | more))


def python10(parent):
    """CIFAR-10's python version, the same examples as `binary10`."""
    folder = parent / "cifar-10-batches-py"
    folder.mkdir()
    for number, file in enumerate(BATCHES):
        folder.joinpath(file).write_bytes(batch(number, 9, values=(10 * number, 10 * number + 1)))
    meta = pickled(num_cases_per_batch=integer(10_000), label_names=listed([*map(text, CIFAR10_NAMES)]))
    (folder / "batches.meta").write_bytes(meta)
    return folder


def python100(parent):
    """CIFAR-100's python version, the same examples as `binary100`."""
    folder = parent / "cifar-100-python"
    folder.mkdir()
    for file, coarse, fine, values in (("train", (19, 3), (99, 42), (1, 2)), ("test", (0,), (7,), (3,))):
        pixels = array(np.repeat(np.array(values, np.uint8)[:, None], 3072, axis=1))
        labels = {"coarse_labels": listed([*map(integer, coarse)]), "fine_labels": listed([*map(integer, fine)])}
        (folder / file).write_bytes(pickled(data=pixels, **labels))
    meta = {
        kind: listed([text(f"{kind}_{n}") for n in range(count)]) for kind, count in (("fine", 100), ("coarse", 20))
    }
    (folder / "meta").write_bytes(pickled(**{f"{kind}_label_names": names for kind, names in meta.items()}))
    return folder


def archive(folder, suffix=".tar.gz"):
    """The folder as an archive beside it, members under the folder's name as in the official one."""
    path = folder.parent / f"archive{suffix}"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    path.write_bytes(gzip.compress(plain.getvalue()) if suffix == ".tar.gz" else plain.getvalue())
    return path


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class Malicious:
    """Calls os.system, or something else, when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def same(first, second):
    """Whether two data sets have equal examples in equal order, whatever they were read from."""
    equal = {**first.summary(), "source": ""} == {**second.summary(), "source": ""}
    return equal and first.class_names == second.class_names


def error_line(name, source, path="", verify=True, **more):
    """The message of the UserError that `load` raises; it has to be one line."""
    with pytest.raises(UserError) as caught:
        load(name, source, str(path), verify, **more)
    line = str(caught.value)
    assert "\n" not in line
    return line


def prepared_set(to, name, splits, classes=10, shape=(None, None, 3), ids=False, shards=1):
    """A directory as tensorflow_datasets prepares it, ArrayRecord: splits of (image, label), in a shuffled order.

    With `ids`, they say the order that the examples have here.
    """
    features = prepared.tfds().features
    columns = {
        "image": features.Image(shape=shape, encoding_format="png"),
        "label": features.ClassLabel(num_classes=classes),
    } | ({"id": features.Text()} if ids else {})

    def examples(split):
        for number, (image, label) in enumerate(splits[split]):
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            yield {"image": picture, "label": label} | ({"id": f"{split}_{number:05d}"} if ids else {})

    prepared.build(to / name / "1.2.0", columns, {split: examples(split) for split in splits}, shards)
    return to


def as_tfrecords(directory):
    """Rewrites the ArrayRecord shards in a version's directory as TFRecord, as `tfds.load` would have left them."""
    for shard in directory.glob("*.array_record*"):
        with (directory / shard.name.replace("array_record", "tfrecord")).open("wb") as file:
            for content in prepared.read(shard):
                file.write(struct.pack("<Q", len(content)) + b"sums" + content + b"sums")
        shard.unlink()
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


@contextmanager
def serving(handler):
    """The address of a server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
