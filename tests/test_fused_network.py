"""Networks whose convolutions do norm, addition and rectifier in C++: the same networks, and they do it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normres import native, norms
from normres.deferred import BACKWARD_TARGET, FORWARD_TARGET
from normres.resnet import ResNet, ResNetConfig

IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(4)


@pytest.fixture(autouse=True)
def loaded():
    if why_not := native.load():
        pytest.skip(f"no native code here: {why_not}")


def variables(config, images=IMAGES):
    """Returns initial values and running averages, away from ones and zeros so that a forgotten one shows."""
    held = jax.eval_shape(ResNet(config).init, jax.random.key(0), images)
    noise = np.random.default_rng(1)

    def value(path, leaf):
        of = noise.standard_normal(leaf.shape).astype(np.float32)
        match path[-1].key:
            case "kernel":
                return of * np.sqrt(2 / max(np.prod(leaf.shape[-4:-1]), 1), dtype=np.float32)
            case "scale" | "var" | "branch_scale":
                return 1 + 0.2 * np.abs(of)
            case "u":
                return of
        return 0.1 * of

    return jax.tree.map_with_path(value, held)


def differentiated(config, train):
    """Returns a jitted function of variables and images: loss, logits and running averages, and all gradients."""

    def loss(params, images, rest):
        mutable = ["batch_stats", "auxiliary"]
        network = ResNet(config, train=train)
        random = {"dropout": jax.random.key(1)}
        logits, changed = network.apply({"params": params, **rest}, images, mutable=mutable, rngs=random)
        every = [logits, *jax.tree.leaves(changed.get("auxiliary", {}))]
        return -sum(jnp.sum(jax.nn.log_softmax(of)[np.arange(4), LABELS]) for of in every), (logits, changed)

    def both(held, images):
        rest = {name: of for name, of in held.items() if name != "params"}
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(held["params"], images, rest)

    return jax.jit(both)


BASE = {"depth": 8, "width": 4, "norm_groups": 2, "norm_sub_batches": 2}


# Each value in one of them, as most of the time goes into compiling.
TRAINED: list[dict[str, object]] = [
    {"norm": "batch", "shortcut": "B", "remat": "elementwise"},
    {"norm": "group", "order": "pre", "shortcut": "B"},
    {"norm": "layer", "order": "norm_after_addition", "shortcut": "B"},
    {"norm": "instance", "order": "relu_before_addition", "shortcut": "B"},
    {"norm": "rms", "order": "relu_only_pre", "shortcut": "B"},
    {"norm": "ghost_batch", "shortcut": "none"},
    {"norm": "NHC"},
    {"norm": "evonorm_s0", "shortcut": "C"},
    {"block": "bottleneck", "depth": 11, "shortcut": "C", "zero_last_scale": True, "auxiliary": (1, 2)},
    {"block": "bottleneck", "depth": 11, "cardinality": 2},
    {"dropout": 0.3, "order": "pre"},
    {"dropout": 0.3, "unrolled": True},
    {"shortcut": "exclusive_gate", "squeeze": 2, "residual_scale": "rezero", "stochastic_depth": 0.5},
    {"residual_scale": "fixup", "norm": "none"},
    {"remat": "block", "depth": 26},  # deep enough for a loop over blocks
    {"weights": "standardized", "norm": "group"},
    {"layout": "imagenet", "depth": 18},
]
EVALUATED: list[dict[str, object]] = [
    {"depth": 14, "dropout": 0.3},
    {"norm": "ghost_batch", "order": "pre", "shortcut": "B"},
    {"block": "bottleneck", "depth": 11, "shortcut": "B"},
    {"stochastic_depth": 0.5, "weights": "spectral"},
]


@pytest.mark.parametrize(
    ("fields", "train"), [(of, True) for of in TRAINED] + [(of, False) for of in EVALUATED], ids=str
)
def test_it_is_the_same_network(fields, train):
    config = ResNetConfig(**BASE | fields)
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)) if config.layout == "imagenet" else IMAGES
    images = images.astype(np.float32)
    held = variables(config, images)
    expected, found = (differentiated(replace(config, native=of), train)(held, images) for of in (False, True))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, wanted), of in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        largest = float(np.abs(wanted).max())
        np.testing.assert_allclose(of, wanted, rtol=0, atol=1e-4 * largest + 1e-6, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    ("fields", "convolutions", "apart"),
    # Three blocks of two convolutions, and the stem's; the norms of projections meet no convolution.
    [
        ({}, 7, 0),
        ({"norm": "group", "shortcut": "none"}, 7, 0),
        ({"shortcut": "B"}, 9, 2),
        ({"shortcut": "C", "remat": "elementwise"}, 10, 3),
        ({"block": "bottleneck", "depth": 11}, 10, 0),
        # The grouped convolutions are XLA's, and so are norms before and after them.
        ({"block": "bottleneck", "depth": 11, "cardinality": 2}, 7, 6),
        # Norms at the beginning of a block, of which a shortcut reads the sum: the stem's, two, and the head's.
        ({"order": "pre", "shortcut": "B"}, 9, 4),
        # Norms at the end of a block that something follows before the addition, and the stem's.
        ({"squeeze": 2}, 7, 4),
        ({"norm": "NHC"}, 7, 7),
    ],
    ids=str,
)
def test_every_convolution_is_native_and_norms_between_them_are_left_to_it(
    monkeypatch, fields, convolutions, apart, train
):
    normalized = []

    def normalization(x, *arguments, of=norms.normalization, **options):
        normalized.append(x.shape)
        return of(x, *arguments, **options)

    config = ResNetConfig(**BASE | fields, native=True)
    held = variables(config)
    monkeypatch.setattr(norms, "normalization", normalization)
    text = differentiated(config, train).lower(held, IMAGES).as_text()
    assert text.count(f"@{FORWARD_TARGET}(") == text.count(f"@{BACKWARD_TARGET}(") == convolutions
    assert "stablehlo.convolution" not in text or config.cardinality > 1
    assert len(normalized) == apart
