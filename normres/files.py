"""Config files, experiments and modules of the user: found by name or by path, and imported.  Needs no jax."""

import ast
import hashlib
import importlib
import importlib.util
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from normres.errors import FaultInFile, UserError, nearest

PACKAGE = Path(__file__).resolve().parent
_loaded: set[Path] = set()  # what users edit, and what a fault is looked for in
_folders: dict[str, set[str]] = {}  # of these files, and the modules that were imported before the first of each


def load(name: str, folder: str = "") -> ModuleType:
    """Imports a Python file.

    Args:
      name: a path, such as mine/net.py, or the name of a file of this project's `folder`, such as "degradation".
      folder: "configs" or "experiments"; "" for paths alone.

    Raises:
      UserError: there is no such file.
      FaultInFile: the file cannot be imported; the traceback shows where.
    """
    own = PACKAGE / folder if folder else None
    if own and "/" not in name and not name.endswith(".py"):
        if name not in names(folder):
            raise UserError(f"{name!r} is no file of {folder}/; {nearest(name, names(folder))}")
        file = own / f"{name}.py"
    else:
        file = Path(name)
    if not file.is_file():
        siblings = sorted(str(path) for path in file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = nearest(name, [path for path in siblings if not path.endswith("__init__.py")]) if siblings else ""
        raise UserError(f"{name}: no such file; {hint}".rstrip("; "))
    _loaded.add(file.resolve())
    try:
        # A file of this project has one identity, whether it is named by its path or imported by another file.
        if own and file.resolve().parent == own.resolve():
            return importlib.import_module(f"normres.{folder}.{file.stem}")
        _prefer_neighbours(str(file.resolve().parent))
        spec = importlib.util.spec_from_file_location(f"normres_loaded_{file.stem}", file)
        if spec is None or spec.loader is None:
            raise UserError(f"{name}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses, and so Flax, look annotations up
        spec.loader.exec_module(module)
        return module
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise fault(file, error) from error


def _prefer_neighbours(folder: str) -> None:
    """Makes `import` find what lies in a folder, after all packages, and not what lies beside a file loaded before."""
    if folder in sys.path and folder not in _folders:
        return

    def lies_in(name: str, other: str) -> bool:
        top = name.partition(".")[0]
        own = (f"{other}/{top}.py", f"{other}/{top}/__init__.py")
        return top not in _folders[other] and getattr(sys.modules.get(top), "__file__", None) in own

    others = _folders.keys() - {folder}
    for name in [name for name in sys.modules for other in others if lies_in(name, other)]:
        del sys.modules[name]
    packages = [path for path in sys.path if path not in _folders]
    _folders.setdefault(folder, set(sys.modules))
    sys.path[:] = [*packages, folder, *others]


def digest(file: Path) -> str:
    """Returns the first characters of the sha256 of a file and of the neighbours that it and they import."""
    texts, waiting = dict[Path, bytes](), [file]
    while waiting:
        path = waiting.pop()
        texts[path] = path.read_bytes()
        with suppress(SyntaxError, ValueError):  # which the import will show
            for node in ast.walk(ast.parse(texts[path])):
                imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for top in {name.partition(".")[0] for name in imported} - {"", PACKAGE.name}:
                    near = [file.with_name(f"{top}.py"), *file.parent.glob(f"{top}/**/*.py")]
                    waiting += [one for one in near if one.is_file() and one not in texts]
    return hashlib.sha256(b"".join(texts[path] for path in [file, *sorted(texts.keys() - {file})])).hexdigest()[:16]


def names(folder: str) -> list[str]:
    """Returns the names of the files of this project's `folder`."""
    return sorted(path.stem for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__")


def fault(file: Path, error: BaseException) -> FaultInFile:
    """Returns the error that shows where, in a file of the user's, something failed."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if Path(frame.filename).resolve() == file.resolve()), len(frames))
    shown = [*traceback.format_list(frames[first:]), *traceback.format_exception_only(error)]
    reason = f"{file}: {type(error).__name__}: {error}".splitlines()[0]
    return FaultInFile(reason, "Traceback (most recent call last):\n" + "".join(shown))


def fault_of_user(error: Exception) -> FaultInFile | None:
    """Returns the fault if the innermost code of this program or of a loaded file is a loaded file's; else None."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        if path in _loaded:
            return fault(path, error)
        if path.is_relative_to(PACKAGE):
            return None
    return None
