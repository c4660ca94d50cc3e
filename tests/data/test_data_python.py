"""The source `python`: pickled files as Python 2 wrote them, and pickles that would rather do something else."""

import os
import pickle
import struct
from contextlib import suppress

import numpy as np
import pytest
from data_files import (
    Malicious,
    archive,
    array,
    batch,
    error_line,
    integer,
    listed,
    release,
    same,
    text,
)

from normres.data import load
from normres.data.unpickle import unpickle
from normres.errors import UserError


@pytest.fixture
def cifar10(tmp_path):
    return release(tmp_path, "python", "cifar10")


@pytest.mark.parametrize(("name", "form"), [("cifar10", "folder"), ("cifar100", ".tar.gz")])
def test_the_python_version_holds_what_the_binary_one_does(tmp_path, name, form):
    folder = release(tmp_path, "python", name)
    path = folder if form == "folder" else archive(folder, form)
    data = load(name, "python", str(path), verify=False)
    assert data.source == "python"
    assert data.train_labels.dtype == np.int32
    assert same(data, load(name, "binary", str(release(tmp_path, "binary", name)), verify=False))


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_of_python_3(protocol):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    for data in (pixels, np.asfortranarray(pixels), pixels[:, ::2]):
        written = pickle.dumps({b"data": data, "labels": [1, 2], "title": "x", "raw": b"\xff\0"}, protocol)
        entries = unpickle(written, "file")
        np.testing.assert_array_equal(entries["data"], data)
        assert entries["data"].dtype == data.dtype
        assert (entries["labels"], entries["title"], entries["raw"]) == ([1, 2], "x", b"\xff\0")


# ---- what is refused


@pytest.mark.parametrize(("where", "protocol"), [("train", 0), ("meta", 2), ("test", 5)])
def test_a_malicious_file_executes_nothing(tmp_path, where, protocol):
    cifar100 = release(tmp_path, "python", "cifar100")
    touched = tmp_path / "touched"
    harmful = pickle.dumps(Malicious(os.system, f"touch {touched}"), protocol)
    pickle.loads(harmful)  # it does what it says ...
    assert touched.exists()
    touched.unlink()
    (cifar100 / where).write_bytes(harmful)
    line = error_line("cifar100", "python", cifar100, verify=False)
    assert not touched.exists()  # ... but not here
    assert f"{cifar100 / where} asks for {os.system.__module__}.system, which is no plain data" in line
    assert "not executed" in line


# Opcodes by hand, each a way to more than plain data, and what is said of it; b"." ends a pickle.
DTYPE = b"cnumpy\ndtype\n"
HUGE = array(np.zeros((1, 1), np.uint8)).replace(integer(1) * 2, integer(2**30) * 2)
FORGED = {
    "eval": (b"cbuiltins\neval\n(" + text("1") + b"tR.", "asks for builtins.eval"),
    "import by dots": (b"cnumpy\ncore.os.system\n(" + text("true") + b"tR.", "asks for numpy.core.os.system"),
    "instance": (b"(" + text("true") + b"ios\nsystem\n.", "asks for os.system"),
    "object": (b"(" + DTYPE + text("u1") + b"o.", "asks for a _Uint8 in the place of a dict"),
    "new object": (b"\x80\x02" + DTYPE + b"(" + text("u1") + b"t\x81.", "asks for a _Uint8 in the place of a dict"),
    "stack global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93(\x8c\x04true\x85R.", "asks for os.system"),
    "call of a string": (text("true") + b"(tR.", "(TypeError)"),
    "call of an array": (b"cnumpy\nndarray\n(" + integer(8) + b"tR.", "(TypeError)"),
    "state of a class": (DTYPE + b"}" + text("set_state") + text("x") + b"sb.", "asks for an object with a state"),
    "state of a list": (b"]}b.", "asks for an object with a state"),
    "extension": (b"\x80\x02\x82\x01.", "(ValueError)"),
    "persistent": (b"Pone\n.", "(UnpicklingError)"),
    "array of objects": (b"}(" + text("x") + DTYPE + b"(" + text("O8") + b"tRu.", "asks for an array of 'O8'"),
    "a list": (b"].", "asks for a list in the place of a dict"),
    "forged shape": (b"}(" + text("x") + HUGE + b"u.", "(ValueError)"),
    "forged length": (b"\x80\x05}(" + text("x") + b"\x96" + struct.pack("<Q", 2**62) + b"u.", "(KeyError)"),
    "empty": (b"", "(EOFError)"),
    "garbage": (b"\xff\xfe\xfd", "(KeyError)"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_pickle_is_one_line(how):
    content, reason = FORGED[how]
    with pytest.raises(UserError) as caught:
        unpickle(content, "the file")
    line = str(caught.value)
    assert line.startswith("the file ")
    assert reason in line
    assert "\n" not in line
    # The next one is read.
    good = pickle.dumps({"data": np.arange(3, dtype=np.uint8)}, 3)
    assert unpickle(good, "the file")["data"].tolist() == [0, 1, 2]


def test_any_flipped_bit_is_survived(cifar10):
    good = (cifar10 / "test_batch").read_bytes()
    ends = [*range(150), *range(len(good) - 150, len(good))]  # around the pixels lies everything else
    for position in ends:
        for bit in (0, 3, 7):
            content = bytearray(good)
            content[position] ^= 1 << bit
            with suppress(UserError):  # and nothing else
                unpickle(content, "the file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch(3, 10, values=(0, 0)), "label 10 in record 1, outside 0..9"),
        (batch(3, -1, values=(0, 0)), "label -1 in record 1, outside 0..9"),
        (batch(3, values=(0, 0)), "labels must be lists of 2 integers"),
        (batch(3, 4, values=(0, 0), labels=listed([text("3"), text("4")])), "labels must be lists of 2 integers"),
        # A list that holds itself.
        (batch(3, values=(0,), labels=b"]q\x00h\x00a"), "labels must be lists of 1 integers"),
        (batch(3, values=(0,), data=array(np.zeros((1, 100), np.uint8))), "'data' is no array (N, 3072)"),
        (batch(values=(), data=array(np.zeros((0, 3072), np.uint8))), "'data' is no array"),
        (batch(3, values=(0,), data=b"cnumpy.core.multiarray\n_reconstruct\n(tR"), "'data' is no array"),
        (batch(3, values=(0,), data=DTYPE), "'data' is no array"),
        (batch(3, 4, values=(0, 0))[:1000], "truncated or damaged"),
    ],
)
def test_wrong_content(cifar10, content, message):
    (cifar10 / "data_batch_5").write_bytes(content)
    line = error_line("cifar10", "python", cifar10, verify=False)
    assert str(cifar10 / "data_batch_5") in line
    assert message in line


def test_the_other_release_is_recognized(tmp_path):
    line = error_line("cifar100", "python", release(tmp_path, "binary", "cifar10"))
    assert "it holds cifar-10-batches-bin: set data.source=binary and data.name=cifar10, or" in line
