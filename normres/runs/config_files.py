"""Loading a config or experiment file by its path, without importing jax."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from normres.errors import UserError, nearest


def load_module(path: str) -> ModuleType:
    """Imports the Python file at `path`; its folder's parent joins sys.path, so `from configs import base` works."""
    file = Path(path)
    if not file.is_file():
        siblings = sorted(str(p) for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = nearest(path, [s for s in siblings if not s.endswith("__init__.py")]) if siblings else ""
        raise UserError(f"{path}: no such file; {hint}".rstrip("; "))
    root = str(file.resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"normres_loaded_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}".splitlines()[0]) from error
    return module
