"""The import arrows of the package: the subject knows nothing of what stands around it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "normres"

# What each part may import, beside itself and errors.
ARROWS = {
    "errors": set(),
    "files": set(),
    "options": set(),
    "signals": set(),
    "norms": set(),
    "layers": {"norms"},
    "models": {"norms", "layers"},
    "data": {"options"},
    "training": {"norms", "layers", "models", "data", "files"},
    "cpu": {"norms", "layers"},
    "interop": {"norms", "models"},
    "runs": {"norms", "layers", "models", "data", "training", "interop", "cpu"}
    | {"files", "options", "configs", "signals"},
    "report": {"runs", "files", "options"},
    "show": {"norms", "layers", "models", "data", "training", "runs", "report", "options"},
    "bench": {"norms", "layers", "models", "data", "training", "interop", "runs", "show", "configs", "options"},
    "cli": {"runs", "report", "show", "bench", "data", "files", "options", "signals"},
    "__main__": {"cli", "runs", "signals"},
    # Links to the folders beside the package.
    "configs": {"runs"},
    "experiments": {"configs", "report", "runs"},
}
# The one door of cpu/, and who may open it.
DOOR = {"runs": "machine.py"}
# Of runs/, what is no more than records, the declarations of fields, and what follows from these: the command that
# repeats a run and the papers to cite.  report/ knows nothing of training.
RECORDS = {"results", "fields", "note", "papers", "durable"}


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Yields the modules of the package that a file imports, as lists of names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[1:] for name in node.names if name.name.startswith("normres."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "normres":
            inner = node.module.split(".")[1:]
            yield from ([*inner, name.name] for name in node.names)


FILES = sorted({*PACKAGE.glob("**/*.py"), *PACKAGE.glob("configs/*.py"), *PACKAGE.glob("experiments/*.py")})


@pytest.mark.parametrize("name", sorted({part(path) for path in FILES} - {"__init__"}))
def test_imports_point_down(name):
    for path in (path for path in FILES if part(path) == name):
        for target in imports(path):
            allowed = ARROWS[name] | {name, "errors"}
            assert target[0] in allowed, f"{path.relative_to(PACKAGE)} imports normres.{'.'.join(target)}"
            if target[0] == "cpu" and name != "cpu":
                assert (DOOR.get(name), target) == (path.name, ["cpu"]), f"{path.name} does not use the door of cpu/"
            if name in ("report", "configs", "experiments") and target[0] == "runs":
                assert target[1] in RECORDS, f"{path.name} imports normres.runs.{target[1]}"


def test_the_subject_fits_an_hour():
    drop_ins = ("linen.py", "nnx.py", "wrappers.py")  # Flax's own modules, for those who have code with them
    subject = [path for path in FILES if part(path) in ("norms", "layers", "models") and path.name not in drop_ins]
    subject += [PACKAGE / "training" / name for name in ("step.py", "optim.py", "losses.py", "metrics.py")]
    lines = {path: len(path.read_text().splitlines()) for path in subject}
    assert sum(lines.values()) <= 2900
    assert max(lines.values()) <= 300
    for path in subject:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                own = [argument for argument in arguments if argument.arg not in ("self", "cls")]
                assert len(own) <= 9, f"{path.name}: {node.name} has {len(own)} parameters"
                assert node.end_lineno - node.lineno < 80, f"{path.name}: {node.name} is longer than a screen"
