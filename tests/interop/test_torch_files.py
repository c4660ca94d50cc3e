"""State dicts in files: what torch.save and safetensors write is read, and nothing that a file asks for is executed."""

import contextlib
import pickle
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from normres.errors import UserError
from normres.interop import read_state_dict
from normres.interop.files import CALLS

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = FIXTURES / "torch_files"


@pytest.fixture(scope="module")
def held():
    """The arrays in the files by key."""
    with np.load(FIXTURES / "torch_networks.npz") as arrays:
        held = {key.removeprefix("files/"): arrays[key] for key in arrays if key.startswith("files/")}
    return held | {"torch.bfloat16": held["torch.bfloat16"].astype(ml_dtypes.bfloat16)}


def same(actual, expected):
    assert list(actual) == list(expected)
    for key, array in expected.items():
        np.testing.assert_array_equal(actual[key], array, strict=True, err_msg=key)
        assert actual[key].flags.writeable


@pytest.mark.parametrize("file", ["state.pth", "state.safetensors"])
def test_files_are_read_in_every_dtype(file, held):
    state = read_state_dict(FILES / file)
    assert len(state) == 17
    # safetensors sorts them by size.
    same(state, {key: held[key] for key in (state if file == "state.safetensors" else held)})


def test_checkpoints_have_a_state_dict_among_other_things(held):
    state = read_state_dict(str(FILES / "checkpoint.pth"))
    np.testing.assert_array_equal(state["0.weight"], held["0.weight"], strict=True)
    same(read_state_dict(FILES / "checkpoint.pth", "net"), state)
    same(read_state_dict(FILES / "two.pth", "average"), state)


class Evil:
    """What runs a command when PyTorch's own reader of old loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def archive(path, pickled, name="data.pkl", storage=b"", **options):
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr(f"archive/{name}", pickled)
        file.writestr("archive/data/0", storage)
    return path


def test_a_malicious_file_is_refused_and_does_nothing(tmp_path):
    victim = tmp_path / "victim"
    pickled = pickle.dumps({"weight": Evil(victim)}, protocol=2)
    pickle.loads(pickled)
    assert victim.exists()  # so it would do its work
    victim.unlink()
    path = archive(tmp_path / "evil.pth", pickled)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: its pickle asks for '.*', so it was not executed; "):
        read_state_dict(path)
    assert not victim.exists()


def op(module, name):
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    "pickled",
    [
        # Names that lead from what is allowed to what is not, and functions of the allowed modules.
        op("builtins", "eval") + b".",
        op("os", "system") + b".",
        op("collections", "namedtuple") + b".",
        op("torch._utils", "_rebuild_tensor_v2.__globals__") + b".",
        op("torch", "FloatStorage.__class__") + b".",
        op("normres.interop.files", "read_state_dict") + b".",
        b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93.",
        # Attributes set on what it may name: of the function, and of the class.
        op("torch._utils", "_rebuild_tensor_v2") + b"N}X\x01\x00\x00\x00aK\x01s\x86b.",
        op("collections", "OrderedDict") + b"}X\x01\x00\x00\x00aK\x01sb.",
        # A tensor without its storage, a storage that is none, one call too deep.
        op("torch._utils", "_rebuild_tensor_v2") + b")R.",
        b"\x80\x02K\x01Q.",
        op("torch", "FloatStorage") + b")R.",
    ],
)
def test_other_pickles_are_refused(pickled, tmp_path):
    with pytest.raises(UserError) as caught:
        read_state_dict(archive(tmp_path / "state.pth", pickled))
    assert str(caught.value).startswith(str(tmp_path / "state.pth"))
    assert "\n" not in str(caught.value)
    # What they may name is shared by all readers: nobody has set its attributes.
    assert not any(hasattr(named, "a") for named in CALLS.values())


def pickled_tensor(offset, shape, strides):
    """A state dict of one float32 tensor over a storage of 4 elements, written as PyTorch writes it."""
    storage = b"(X\x07\x00\x00\x00storage" + op("torch", "FloatStorage") + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += b"K\x04tQ"
    rebuilt = op("torch._utils", "_rebuild_tensor_v2") + b"(" + storage
    rebuilt += b"".join(pickle.dumps(part, protocol=2)[2:-1] for part in (offset, shape, strides)) + b"tR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + rebuilt + b"s."


def test_tensors_stay_in_their_storage(tmp_path):
    def read(*description):
        storage = np.arange(4, dtype=np.float32).tobytes()
        return read_state_dict(archive(tmp_path / "state.pth", pickled_tensor(*description), storage=storage))["a"]

    np.testing.assert_array_equal(read(1, (3,), (1,)), np.float32([1, 2, 3]), strict=True)
    np.testing.assert_array_equal(read(0, (2, 2), (1, 2)), np.float32([[0, 2], [1, 3]]), strict=True)
    assert read(0, (0, 3), (3, 1)).shape == (0, 3)
    assert read(3, (), ()) == 3
    outside = [(2, (3,), (1,)), (0, (2, 3), (2, 1)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (10**12,), (0,))]
    outside += [(0, (2, 2), (1,)), (4, (), ())]
    for description in outside:
        with pytest.raises(UserError, match=r"state.pth: is damaged: ValueError: "):
            read(*description)


# The file, what is done to it, and what the message says after its name.
FILE_MISTAKES = [
    ("state.pth", lambda data: data[:-100], "is neither named .safetensors nor a complete file of torch.save"),
    ("state.pth", lambda data: data.replace(b"running_mean", b"running_meen"), "is damaged: BadZipFile: Bad CRC-32"),
    # As torch.save wrote before PyTorch 1.6.
    ("state.pth", lambda data: b"\x80\x02K\x01.", "is neither named .safetensors nor a complete file of torch.save"),
    # The library of safetensors compares the header with what follows it.
    ("state.safetensors", lambda data: data[:-1], "is damaged: SafetensorError: "),
    ("state.safetensors", lambda data: data.replace(b"I16", b"I17"), "is damaged: SafetensorError: "),
    ("state.safetensors", lambda data: data.replace(b"I16", b"U16"), "torch.int16 has dtype U16, which cannot be "),
    ("module.pth", lambda data: data, "its pickle asks for 'torch.nn.modules.container.Sequential', so it was not ex"),
    ("counter.pth", lambda data: data, "its pickle asks for 'collections.Counter', so it was not executed; "),
    ("two.pth", lambda data: data, "is no state dict; entries with one: net, average"),
]


@pytest.mark.parametrize(("file", "change", "message"), FILE_MISTAKES)
def test_mistakes_in_files_are_one_line_that_names_the_file(file, change, message, tmp_path):
    path = tmp_path / file
    path.write_bytes(change((FILES / file).read_bytes()))
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_wrong_entries_and_paths_are_one_line(tmp_path):
    epoch = archive(tmp_path / "epoch.pth", pickle.dumps({"epoch": 3}, protocol=2))
    other = archive(tmp_path / "other.pth", b"", name="other")
    compressed = archive(tmp_path / "z.pth", b"" * 99, compression=zipfile.ZIP_DEFLATED)
    for path, entry, message in (
        (tmp_path / "no.pth", None, "No such file or directory"),
        (tmp_path, None, "Is a directory"),
        (FILES / "two.pth", "nets", "has no state dict in an entry 'nets'; did you mean 'net'? choices: net, average"),
        (FILES / "state.safetensors", "net", "is one state dict and has no entry 'net'"),
        (epoch, None, "is no state dict; entries with one: none"),
        (other, None, "is damaged: ValueError: the archive has 0 files data.pkl, expected 1"),
        (compressed, None, "is damaged: ValueError: ['archive/data.pkl'] is compressed"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(f'{path}: {message}')}$"):
            read_state_dict(path, entry)


@pytest.mark.parametrize("file", ["state.pth", "state.safetensors"])
def test_damage_anywhere_is_an_error_of_the_user_or_none(file, tmp_path):
    data, path, draw = (FILES / file).read_bytes(), tmp_path / file, np.random.default_rng(0)
    for _ in range(40):
        path.write_bytes(data[: draw.integers(len(data))])
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: .*$"):
            read_state_dict(path)
        damaged = bytearray(data)
        damaged[draw.integers(len(data))] ^= 1 << draw.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):  # numbers may change without notice
            assert all(isinstance(array, np.ndarray) for array in read_state_dict(path).values())
