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
    """One file of the python version of CIFAR-10: image i is all of value i."""
    pixels = np.repeat(np.array(values, np.uint8)[:, None], 3072, axis=1)
    items = {"labels": listed([*map(integer, labels)]), "data": array(pixels), "filenames": listed([text("a.png")])}
    return pickled(batch_label=text("training batch 1 of 5"), **(items | more))


FOLDERS = {
    ("binary", "cifar10"): "cifar-10-batches-bin",
    ("binary", "cifar100"): "cifar-100-binary",
    ("python", "cifar10"): "cifar-10-batches-py",
    ("python", "cifar100"): "cifar-100-python",
}
# Of each file the records: their labels (of CIFAR-100 coarse, then fine), and the value of all their pixels.
RECORDS = {
    "cifar10": {file: [((number,), 10 * number), ((9,), 10 * number + 1)] for number, file in enumerate(BATCHES)},
    "cifar100": {"train": [((19, 99), 1), ((3, 42), 2)], "test": [((0, 7), 3)]},
}


def release(parent, source, name):
    """The folder of a small release that holds RECORDS; a blank line ends the file of names."""
    folder = parent / FOLDERS[source, name]
    folder.mkdir()
    for file, records in RECORDS[name].items():
        if source == "binary":
            content = b"".join(record(*labels, value=value) for labels, value in records)
            (folder / f"{file}.bin").write_bytes(content)
            continue
        labels, values = zip(*records, strict=True)
        columns = [listed([*map(integer, column)]) for column in zip(*labels, strict=True)]
        keys = ("labels",) if name == "cifar10" else ("coarse_labels", "fine_labels")
        (folder / file).write_bytes(batch(values=values, **dict(zip(keys, columns, strict=True))))
    names = [f"fine_{number}" for number in range(100)]
    if (source, name) == ("binary", "cifar100"):
        (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n\n")
    if (source, name) == ("python", "cifar100"):
        (folder / "meta").write_bytes(pickled(fine_label_names=listed([*map(text, names)])))
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
