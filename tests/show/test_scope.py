"""The scope picture colours what a norm's output depends on, and the files are what the code draws."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from normres.norms import TABLE, normalization
from normres.show import scope

ROOT = Path(__file__).resolve().parents[2]


# local_response divides by a window of channels, which is no reduction over an axis.
@pytest.mark.parametrize("name", [name for name in TABLE if name != "local_response"])
def test_the_coloured_cells_are_those_that_the_output_depends_on(name):
    spec = TABLE[name].split(groups=scope.GROUPS, sub_batches=scope.SUB_BATCHES)
    x = np.random.default_rng(0).normal(size=(scope.EXAMPLES, 2, scope.PIXELS // 2, scope.CHANNELS)).astype(np.float32)

    def corner(x):
        n, s, c = scope.CORNER
        return normalization(x, spec)[0].reshape(scope.EXAMPLES, scope.PIXELS, scope.CHANNELS)[n, s, c]

    gradient = np.asarray(jax.grad(corner)(x)).reshape(scope.EXAMPLES, scope.PIXELS, scope.CHANNELS)
    coloured = {scope.CORNER}.union(*scope.cubes(TABLE[name]).values())
    assert {tuple(map(int, cell)) for cell in np.argwhere(np.abs(gradient) > 1e-7)} == coloured


def test_the_pictures_are_what_the_code_draws():
    file = ROOT / "scripts/make_norms_tables.py"
    spec = importlib.util.spec_from_file_location("make_norms_tables", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, picture in module.pictures().items():
        assert path.read_text() == picture, f"{path}: python scripts/make_norms_tables.py draws it anew"
