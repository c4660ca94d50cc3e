"""State dicts in files: what torch.save writes, and `.safetensors`, read without PyTorch and without trusting the file.

What torch.save writes holds a pickle, which is a program: it may call what its author likes.  Here it may call what
`CALLS` lists, which puts dicts and descriptions of tensors together, and whatever else it names is refused.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from normres.data.files import library, one_line
from normres.data.unpickle import Refused, Unpickler
from normres.errors import UserError, nearest

# By safetensors' names; little-endian, as both formats are.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(bool),
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
# The classes of PyTorch that name a storage's dtype.
STORAGES = {
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "HalfStorage": "F16",
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "BFloat16Storage": "BF16",
}
# With these numbers a file of torch.save begins that is no zip archive, as before PyTorch 1.6.
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads a state dict from a file: `.safetensors`, or what torch.save wrote, in its zip archive or as before 1.6.

    Tensors are copied to memory of their own, in their dtype (bfloat16 by ml_dtypes); devices and gradients are
    dropped.  Nothing that a file asks for is executed.

    Args:
      path: the file; `.safetensors` is known by its name, the others by what they hold.
      entry: which entry of a checkpoint has the state dict, such as "net"; None if the file is a state dict or only
        one of its entries is.

    Returns:
      arrays by key, in the file's order.

    Raises:
      UserError: one line that names the file, or says that the package of `.safetensors` is missing.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            if entry is not None:
                raise UserError(f"{path}: is one state dict and has no entry {entry!r}")
            return _read_safetensors(data)
        if zipfile.is_zipfile(io.BytesIO(data)):
            content, storages = _read_archive(data)
        elif data[:1] == b"\x80":
            content, storages = _read_old(data)
        else:
            raise UserError(f"{path}: is neither named .safetensors nor a complete file of torch.save")
        return {key: _array(tensor, storages) for key, tensor in _state_dict(content, path, entry).items()}
    except UserError:
        raise
    except Refused as refused:
        raise UserError(
            f"{path}: its pickle asks for {str(refused)!r}, so it was not executed; "
            "save the tensors alone, in PyTorch: torch.save(model.state_dict(), ...)"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except Exception as error:
        # A damaged pickle can raise anything.
        raise UserError(f"{path}: is damaged: {type(error).__name__}: {one_line(error)[:200]}") from error


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    return {
        key: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"]).copy()
        for key, tensor in library("safetensors", "export").deserialize(data)
    }


class _Storage(NamedTuple):
    """Memory that tensors share."""

    key: str
    dtype: str
    elements: int


class _Tensor(NamedTuple):
    """A view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Entries(dict[Any, Any]):
    def set_state(self, state: Any) -> None:
        """Drops what a state dict has beside its entries, the versions of modules."""


# All that a pickle may name; a storage's class stands for its dtype.
CALLS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Entries,
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _Tensor(
        storage, offset, tuple(shape), tuple(strides)
    ),
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(Unpickler):
    """Reads a pickle of torch.save, and notes the storages that it names."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, CALLS, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, elements, *view = pid
        _check(kind == "storage" and dtype in DTYPES, f"{kind!r} is no storage of a known dtype")
        _check(view in ([], [None]), "a storage is a view of another one")
        storage = _Storage(str(key), dtype, elements)
        _check(self.storages.setdefault(storage.key, storage) == storage, f"storage {key!r} is described twice")
        return storage


def _read_archive(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """Reads the pickle in NAME/data.pkl and the storages, one file each, in NAME/data/."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        _check(len(pickles) == 1, f"the archive has {len(pickles)} files data.pkl, expected 1")
        # PyTorch does not compress, so a small file cannot become a large one.
        compressed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        _check(not compressed, f"{compressed[:1]} is compressed")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist():
            _check(archive.read(f"{folder}byteorder") == b"little", "the numbers are big-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        content = unpickler.load()
        return content, {key: archive.read(f"{folder}data/{key}") for key in unpickler.storages}


def _read_old(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """Reads five pickles: magic number, version, about the machine, content, keys of storages; then the storages."""
    stream = io.BytesIO(data)
    magic, version, machine = (_Unpickler(stream).load() for _ in range(3))
    _check((magic, version) == (OLD_MAGIC, OLD_VERSION), "it is a pickle, but not one of torch.save")
    _check(machine["little_endian"] is True, "the numbers are big-endian")
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    storages = {}
    for key in _Unpickler(stream).load():
        storage = unpickler.storages[str(key)]
        (elements,) = struct.unpack("<q", stream.read(8))
        _check(elements == storage.elements, f"storage {key!r} says it has {elements} elements, not {storage.elements}")
        storages[storage.key] = stream.read(elements * DTYPES[storage.dtype].itemsize)
    return content, storages


def _state_dict(content: Any, path: Path, entry: str | None) -> Mapping[str, _Tensor]:
    """Returns the state dict that is meant: all there is, or an entry of it."""

    def is_one(value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        return all(isinstance(key, str) and isinstance(tensor, _Tensor) for key, tensor in value.items())

    if entry is None and is_one(content):
        return content
    entries = [key for key, value in content.items() if is_one(value)] if isinstance(content, dict) else []
    if entry in entries:
        return content[entry]
    if entry is not None:
        raise UserError(f"{path}: has no state dict in an entry {entry!r}; {nearest(entry, entries or ['none'])}")
    if len(entries) != 1:
        raise UserError(f"{path}: is no state dict; entries with one: {', '.join(map(str, entries)) or 'none'}")
    return content[entries[0]]


def _array(tensor: _Tensor, storages: Mapping[str, bytes]) -> np.ndarray:
    """Returns a copy of a tensor's elements, all of which lie in its storage."""
    storage, offset, shape, strides = tensor
    dtype = DTYPES[storage.dtype]
    flat = np.frombuffer(storages[storage.key], dtype)
    _check(flat.size == storage.elements, f"storage {storage.key!r} has {flat.size} elements, not {storage.elements}")
    # numpy checks no strides: what they reach must lie in the storage, and not so often that it would fill the memory.
    elements = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    _check(min(offset, *shape, *strides, 0) == 0, "a tensor has negative sizes or strides")
    if elements == 0:
        return np.zeros(shape, dtype)
    _check(last < flat.size and elements <= flat.size, f"a tensor of shape {shape} leaves storage {storage.key!r}")
    steps = [stride * dtype.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False).copy()


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
