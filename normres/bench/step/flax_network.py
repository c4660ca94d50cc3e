"""Stock Flax as a contender: the ResNet and its training step as users of flax.linen and optax write them."""

from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from normres.interop.modules import kernel_from_torch, kernel_to_torch, norm_from_torch, norm_to_torch

# Flax's module for a row of norms.TABLE, and its arguments.
MODULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "batch": (nn.BatchNorm, {"use_running_average": False}),
    "instance": (nn.InstanceNorm, {}),
    "layer": (nn.LayerNorm, {"reduction_axes": (1, 2, 3)}),
    "group": (nn.GroupNorm, {}),
    "rms": (nn.RMSNorm, {"reduction_axes": (1, 2, 3)}),
}


def norm_of(spec: Mapping[str, Any]) -> Callable[..., nn.Module]:
    """Returns the constructor of a spec's norm; read are its norm, dtype, epsilon, groups and kept."""
    module, arguments = MODULES[spec["norm"]]
    of_spec = {"batch": {"momentum": spec["kept"]}, "group": {"num_groups": spec["groups"]}}.get(spec["norm"], {})
    return partial(module, epsilon=spec["epsilon"], dtype=jnp.dtype(spec["dtype"]), **arguments, **of_spec)


class Network(nn.Module):
    """The CIFAR ResNet with shortcut A, its blocks one after another; the modules have PyTorch's names."""

    spec: Mapping[str, Any]

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits."""
        spec, norm, dtype = self.spec, norm_of(self.spec), jnp.dtype(self.spec["dtype"])

        def conv_norm(x: jax.Array, features: int, prefix: str, number: int, stride: int = 1) -> jax.Array:
            conv = nn.Conv(features, (3, 3), stride, 1, use_bias=False, dtype=dtype, name=f"{prefix}conv{number}")
            y: jax.Array = norm(name=f"{prefix}bn{number}")(conv(x))
            return y

        x = nn.relu(conv_norm(images, spec["width"], "", 1))
        for stage, count in enumerate(spec["blocks"]):
            features = spec["width"] * 2**stage
            for number in range(count):
                name, stride = f"layer{stage + 1}.{number}.", 2 if stage > 0 and number == 0 else 1
                y = conv_norm(nn.relu(conv_norm(x, features, name, 1, stride)), features, name, 2)
                shortcut = x[:, ::stride, ::stride]
                x = nn.relu(jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1]))) + y)
        x = nn.Dense(spec["classes"], dtype=dtype, name="fc")(jnp.mean(x, axis=(1, 2)))
        return jnp.asarray(x, jnp.float32)


def training(spec: Mapping[str, Any]) -> tuple[Network, Any, Callable[..., Any]]:
    """Returns the network, its optimizer, and the step (variables, momenta, images, labels) -> both after it, loss."""
    network = Network(spec)
    sgd = optax.sgd(spec["learning_rate"], spec["momentum"])
    optimizer = optax.chain(optax.add_decayed_weights(spec["weight_decay"]), sgd)

    def train_step(variables: Any, momenta: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = network.apply(variables | {"params": params}, images, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
        updates, momenta = optimizer.update(gradients, momenta, variables["params"])
        return variables | updated | {"params": optax.apply_updates(variables["params"], updates)}, momenta, loss

    return network, optimizer, train_step


def build(spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    """See serve.Timed.  Unlike normres, Flax gets its batch ready-made, in float32."""
    _, optimizer, step = training(spec)
    train_step = jax.jit(step, donate_argnums=(0, 1))
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name in dict.fromkeys(key.rpartition(".")[0] for key in weights):
        convert = kernel_from_torch if weights[f"{name}.weight"].ndim > 1 else norm_from_torch
        for collection, leaves in convert(weights, name).items():
            variables[collection][name] = leaves
    variables = jax.device_put(variables, may_alias=False)
    momenta = optimizer.init(variables["params"])
    batch = jax.device_put((np.float32(images) / 255, labels))

    def train(count: int) -> float:
        nonlocal variables, momenta
        for _ in range(count):
            variables, momenta, loss = train_step(variables, momenta, *batch)
        jax.block_until_ready((variables, momenta))
        return float(loss)

    def state_dict() -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        params, batch_stats = jax.device_get((variables["params"], variables["batch_stats"]))
        for name, leaves in params.items():
            convert = kernel_to_torch if "kernel" in leaves else norm_to_torch
            arrays |= convert({"params": leaves, "batch_stats": batch_stats.get(name, {})}, name)
        return arrays

    return SimpleNamespace(train=train, state_dict=state_dict, most=1)
