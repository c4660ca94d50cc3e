"""State dicts in files: what torch.save writes, and `.safetensors`, read without PyTorch and without trusting the file.

What torch.save writes holds a pickle, which is a program: it may call what its author likes.  Here it may call what
`CALLS` lists, which puts dicts and tensors together, and whatever else it names is refused.
"""

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from normres.data.files import one_line
from normres.data.unpickle import Refused, Unpickler
from normres.errors import UserError, library, nearest

# Of each dtype what safetensors calls it and which class of PyTorch; little-endian, as both formats are.
_ROWS = (
    ("BOOL", "BoolStorage", "?"),
    ("U8", "ByteStorage", "u1"),
    ("I8", "CharStorage", "i1"),
    ("I16", "ShortStorage", "<i2"),
    ("I32", "IntStorage", "<i4"),
    ("I64", "LongStorage", "<i8"),
    ("F16", "HalfStorage", "<f2"),
    ("BF16", "BFloat16Storage", ml_dtypes.bfloat16),
    ("F32", "FloatStorage", "<f4"),
    ("F64", "DoubleStorage", "<f8"),
)
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, _, kind in _ROWS}


def read_state_dict(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """Reads a state dict from a file: `.safetensors`, or what torch.save has written since PyTorch 1.6.

    Tensors are copied to memory of their own, in their dtype (bfloat16 by ml_dtypes); devices and gradients are
    dropped.  Nothing that a file asks for is executed.

    Args:
      path: the file; `.safetensors` is known by its name.
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
            tensors = library("safetensors", "export").deserialize(data)
            if unknown := [f"{key} has dtype {held['dtype']}" for key, held in tensors if held["dtype"] not in DTYPES]:
                raise UserError(f"{path}: {unknown[0]}, which cannot be read; known: {', '.join(DTYPES)}")
            views = {key: _view((DTYPES[held["dtype"]], held["data"]), 0, held["shape"]) for key, held in tensors}
        elif zipfile.is_zipfile(io.BytesIO(data)):
            views = _state_dict(_read_archive(data), path, entry)
        else:
            raise UserError(
                f"{path}: is neither named .safetensors nor a complete file of torch.save (PyTorch 1.6 or later)"
            )
        return {key: view.copy() for key, view in views.items()}
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


def _view(
    storage: tuple[np.dtype[Any], bytes], offset: int, shape: Any, strides: Any = None, *_: Any
) -> np.ndarray[Any, Any]:
    """Returns a tensor as a view of its storage, in which all of it must lie; offset and strides count elements."""
    dtype, content = storage
    # So that a stride of 0 does not make a small file fill the memory.
    _check(math.prod(shape) * dtype.itemsize <= len(content), f"a tensor of shape {tuple(shape)} leaves its storage")
    steps = strides and [stride * dtype.itemsize for stride in strides]
    return np.ndarray(tuple(shape), dtype, content, offset * dtype.itemsize, steps)


class _Entries(dict[Any, Any]):
    def set_state(self, state: Any) -> None:
        """Drops what a state dict has beside its entries, the versions of modules."""


# All that a pickle may name; a storage's class stands for its dtype.
CALLS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Entries,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", storage): name for name, storage, _ in _ROWS},
}


class _Unpickler(Unpickler):
    """Reads the pickle of an archive, and the storages that it names, one file each, in the folder data/ beside it."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        super().__init__(io.BytesIO(archive.read(name)), CALLS, encoding="utf-8")
        self.archive, self.folder = archive, name.removesuffix("data.pkl")
        self.contents: dict[str, bytes] = {}

    def persistent_load(self, pid: Any) -> tuple[np.dtype[Any], bytes]:
        kind, dtype, key, _device, _elements, *view = pid
        _check(kind == "storage" and dtype in DTYPES, f"{kind!r} is no storage of a known dtype")
        _check(view in ([], [None]), "a storage is a view of another one")
        if key not in self.contents:
            self.contents[key] = self.archive.read(f"{self.folder}data/{key}")
        return DTYPES[dtype], self.contents[key]


def _read_archive(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        _check(len(pickles) == 1, f"the archive has {len(pickles)} files data.pkl, expected 1")
        # PyTorch does not compress, so a small file cannot become a large one.
        compressed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        _check(not compressed, f"{compressed[:1]} is compressed")
        unpickler = _Unpickler(archive, pickles[0])
        if f"{unpickler.folder}byteorder" in archive.namelist():
            _check(archive.read(f"{unpickler.folder}byteorder") == b"little", "the numbers are big-endian")
        return unpickler.load()


def _state_dict(content: Any, path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """Returns the state dict that is meant: all there is, or an entry of it."""

    def is_one(value: Any) -> bool:
        if not isinstance(value, dict) or not value:
            return False
        return all(isinstance(key, str) and isinstance(tensor, np.ndarray) for key, tensor in value.items())

    if entry is None and is_one(content):
        return content
    entries = [key for key, value in content.items() if is_one(value)] if isinstance(content, dict) else []
    if entry is None and len(entries) == 1:
        return content[entries[0]]
    if entry is None:
        raise UserError(f"{path}: is no state dict; entries with one: {', '.join(map(str, entries)) or 'none'}")
    if entry not in entries:
        raise UserError(f"{path}: has no state dict in an entry {entry!r}; {nearest(entry, entries or ['none'])}")
    return content[entry]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
