"""The scope picture colours what a norm's output depends on, and the files are what the code draws."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from normres.norms import TABLE, normalization
from normres.show import scope

ROOT = Path(__file__).resolve().parents[2]


def test_the_coloured_cells_are_those_that_the_output_depends_on():
    shape = (scope.EXAMPLES, scope.PIXELS, scope.CHANNELS)
    x = np.random.default_rng(0).normal(size=(scope.EXAMPLES, 2, scope.PIXELS // 2, scope.CHANNELS)).astype(np.float32)
    # local_response divides by a window of channels, which is no reduction over an axis.
    names = [name for name in TABLE if name != "local_response"]

    def corners(x):
        specs = [TABLE[name].split(groups=scope.GROUPS, sub_batches=scope.SUB_BATCHES) for name in names]
        return jnp.stack([normalization(x, spec)[0].reshape(shape)[scope.CORNER] for spec in specs])

    for name, slopes in zip(names, np.asarray(jax.jit(jax.jacrev(corners))(x)), strict=True):
        coloured = {scope.CORNER}.union(*scope.cubes(TABLE[name]).values())
        depends = {tuple(map(int, cell)) for cell in np.argwhere(np.abs(slopes.reshape(shape)) > 1e-7)}
        assert depends == coloured, name


def test_the_pictures_are_what_the_code_draws():
    script = runpy.run_path(str(ROOT / "scripts/make_norms_tables.py"))
    for path, picture in script["pictures"]().items():
        assert path.read_text() == picture, f"{path}: python scripts/make_norms_tables.py draws it anew"
