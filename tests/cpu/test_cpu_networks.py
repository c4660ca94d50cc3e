"""Networks with the CPU's operations and with the plain ones: the same numbers, and forward mode is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn

from normres.layers import PLAIN
from normres.models import ResNet, ResNetConfig, Stylizer, StylizerConfig

pytest.importorskip("normres.cpu")
from normres.cpu import native
from normres.cpu.ops import NATIVE, XLA

SETS = {"xla": XLA, "native": NATIVE}
# Three batches.
IMAGES = np.random.default_rng(0).normal(size=(3, 4, 8, 8, 3)).astype(np.float32)


def network(ops, **fields):
    return ResNet(ResNetConfig(depth=8, width=4, **fields), train=True, ops=ops)


@pytest.mark.parametrize(
    ("shortcut", "order", "kind"),
    [("A", "post", "xla"), ("B", "pre", "native"), ("exclusive_gate", "norm_after_addition", "xla")],
)
def test_logits_averages_and_gradients_are_the_plain_operations(shortcut, order, kind):
    if native.load():
        kind = "xla"
    fields = {"shortcut": shortcut, "order": order}
    held = drawn(network(PLAIN, **fields), jax.ShapeDtypeStruct(IMAGES[0].shape, jnp.float32))

    def compiled(ops):
        def loss(params, images):
            logits, changed = network(ops, **fields).apply({**held, "params": params}, images, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(logits)), (logits, changed)

        return jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})

    plain, ours = compiled(PLAIN), compiled(SETS[kind])

    def errors(images):
        """Returns the largest difference in each array, relative to its largest number."""
        pairs = zip(*(jax.tree.leaves(run(held["params"], images)) for run in (ours, plain)), strict=True)
        return [np.abs(computed - expected).max() / np.abs(expected).max() for computed, expected in pairs]

    # Some twenty operations in a row, each 6e-8 off, whose errors norms of small deviation enlarge.  The median of
    # three batches: in one of some hundred, a ReLU whose input is zero but for rounding changes sides.
    assert np.max(np.median([errors(images) for images in IMAGES], axis=0)) < 1e-4


def test_a_stylizer_is_that_of_the_plain_operations():
    """Its scales and biases differ from example to example."""
    kind = "xla" if native.load() else "native"
    images, labels = IMAGES[0] % 1, np.array([0, 1, 1, 0])
    config = StylizerConfig(depth=8, width=4, classes=2, norm="instance", condition="picture")
    held = drawn(Stylizer(config), images)["params"]

    def compiled(ops):
        network = Stylizer(config, train=True, ops=ops)

        def loss(params):
            return jnp.sum(jnp.sin(network.apply({"params": params}, images, labels, images[::-1])))

        return jax.jit(jax.value_and_grad(loss))(held)

    for ours, plain in zip(*map(jax.tree.leaves, map(compiled, (SETS[kind], PLAIN))), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-3 * np.abs(plain).max())


def test_blocks_of_one_loop_merge_statistics_over_devices():
    # Flax's scan refuses a sum over devices in a custom gradient.
    devices = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    config = ResNetConfig(depth=14, width=4, dtype=jnp.bfloat16, axis_name="data")
    held = drawn(ResNet(config, train=True), jax.ShapeDtypeStruct(IMAGES[0].shape, jnp.float32))

    def means(ops):
        def share(images):
            return ResNet(config, train=True, ops=ops).apply(held, images, mutable=["batch_stats"])[1]["batch_stats"]

        split = jax.sharding.PartitionSpec("data")
        over = jax.shard_map(
            share, mesh=devices, in_specs=split, out_specs=jax.sharding.PartitionSpec(), check_vma=False
        )
        return jax.tree.leaves(jax.jit(over)(IMAGES[0]))

    for computed, expected in zip(means(XLA), means(PLAIN), strict=True):
        np.testing.assert_allclose(computed, expected, rtol=0.02, atol=0.02)
