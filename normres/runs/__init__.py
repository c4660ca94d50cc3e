"""Where runs go: the devices of this machine.  `load` opens a run that is done."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normres.runs.finished import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Who reads records alone does not import jax.
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from normres.runs import finished

    return finished.load
