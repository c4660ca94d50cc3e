"""Reads pickles that hold plain data.  It can build nothing else.

A pickle is a program: it names functions and calls them.  Here the few names that the data need stand for functions of
this program, every other name is refused, and nothing that a pickle says is ever imported.
"""

import io
import pickle
from typing import Any, ClassVar

import numpy as np

from normres.errors import UserError


class Refused(Exception):
    """The pickle wants something that plain data does not need."""


class _Uint8:
    """Stands for numpy.dtype: pixels are single bytes."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        if text(code).lstrip("|") != "u1":
            raise Refused(f"an array of {text(code)[:20]!r}")

    def set_state(self, state: Any) -> None:
        """Drops the version and the byte order."""


class _Array:
    """Stands for an empty array, whose content arrives as its state."""

    value: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, dtype, whether column-major, bytes); a forged shape asks for no memory."""
        _version, shape, dtype, column_major, content = state
        if isinstance(content, str):  # Python 2's bytes, read as latin1
            content = content.encode("latin1")
        if not isinstance(dtype, _Uint8) or not isinstance(content, bytes):
            raise Refused("an array that is not plain bytes")
        self.value = np.frombuffer(content, np.uint8).reshape(shape, order="F" if column_major else "C")


# (module, name) as a pickle writes it; numpy 2 has `_core` in the place of `core`.
CALLS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    ("numpy", "ndarray"): "numpy.ndarray",  # handed to `_reconstruct`; nothing calls it
    ("numpy", "dtype"): _Uint8,
}


class _Unpickler(pickle._Unpickler):
    """Reads a pickle, which can name nothing but the stand-ins in CALLS, and so call nothing else.

    It reads protocols 0 to 4, and is the unpickler in Python: a damaged length makes that in C ask for all memory.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Returns a stand-in; every other name is Refused."""
        if (module, name) not in CALLS:
            raise Refused(f"{module}.{name}"[:80])
        return CALLS[module, name]

    def load_build(self) -> None:
        """Hands a state to what a stand-in made; no attribute of anything is ever set."""
        state = self.stack.pop()  # type: ignore[attr-defined]
        target = self.stack[-1]  # type: ignore[attr-defined]
        if not isinstance(target, _Uint8 | _Array):
            raise Refused("an object with a state")
        target.set_state(state)

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]
    del dispatch[pickle.BYTEARRAY8[0]]  # makes room for as many bytes as the file says, before it has looked


def text(value: Any) -> str:
    """Returns a string that Python 2 or 3 wrote; "" for anything else."""
    return value.decode("latin1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def unpickle(content: bytes, what: str) -> dict[str, Any]:
    """Returns the dict that a pickle holds, arrays uint8; what else its values are is not checked.

    Strings of Python 2 are read as latin1, so bytes keep their values.
    Raises `UserError`, one line that begins with `what`, for a damaged pickle and for one that asks for anything
    but plain data; it has then executed nothing.
    """
    try:
        entries = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(entries, dict):
            raise Refused(f"a {type(entries).__name__} in the place of a dict")
        return {text(key): value.value if isinstance(value, _Array) else value for key, value in entries.items()}
    except Refused as error:
        raise UserError(
            f"{what} asks for {error}, which is no plain data: altered or malicious; it was not executed"
        ) from None
    # A damaged pickle can raise anything: it is a program with a random instruction in it.
    except Exception as error:
        raise UserError(f"{what} is no readable pickle ({type(error).__name__}): truncated or damaged") from error
