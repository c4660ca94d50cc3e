"""Stock Flax as a contender: the ResNet and its training step as users of flax.linen and optax write them."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from normres.interop.modules import kernel_from_torch, kernel_to_torch, norm_from_torch, norm_to_torch


def norm(spec: dict[str, Any]) -> Callable[..., nn.Module]:
    """Returns the constructor of the spec's norm."""
    common = {"epsilon": spec["epsilon"], "dtype": jnp.dtype(spec["dtype"])}
    makers: dict[str, Callable[..., nn.Module]] = {
        "batch": partial(nn.BatchNorm, use_running_average=False, momentum=spec["kept"], **common),
        "group": partial(nn.GroupNorm, num_groups=spec["groups"], **common),
        "layer": partial(nn.LayerNorm, reduction_axes=(1, 2, 3), **common),
        "instance": partial(nn.InstanceNorm, **common),
    }
    return makers[spec["norm"]]


class Network(nn.Module):
    """The CIFAR ResNet with shortcut A, its blocks one after another; the modules have PyTorch's names."""

    blocks: tuple[int, ...]
    width: int
    classes: int
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits."""

        def conv_norm(x: jax.Array, features: int, prefix: str, number: int, stride: int = 1) -> jax.Array:
            conv = nn.Conv(features, (3, 3), stride, 1, use_bias=False, dtype=self.dtype, name=f"{prefix}conv{number}")
            y: jax.Array = self.norm(name=f"{prefix}bn{number}")(conv(x))
            return y

        x = nn.relu(conv_norm(images, self.width, "", 1))
        for stage, count in enumerate(self.blocks):
            features = self.width * 2**stage
            for number in range(count):
                name, stride = f"layer{stage + 1}.{number}.", 2 if stage > 0 and number == 0 else 1
                y = conv_norm(nn.relu(conv_norm(x, features, name, 1, stride)), features, name, 2)
                shortcut = x[:, ::stride, ::stride]
                x = nn.relu(jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1]))) + y)
        x = nn.Dense(self.classes, dtype=self.dtype, name="fc")(jnp.mean(x, axis=(1, 2)))
        return jnp.asarray(x, jnp.float32)


class State(train_state.TrainState):
    """Flax's, with running statistics."""

    batch_stats: Any = None


@partial(jax.jit, donate_argnums=0)
def train_step(state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
    """Returns the state after a step, and the step's loss."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updated = state.apply_fn(variables, images, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

    (loss, updated), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, batch_stats=updated.get("batch_stats", {})), loss


def build(spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> SimpleNamespace:
    """See serve.Timed.  Unlike normres, Flax gets its batch ready-made, in float32."""
    network = Network(tuple(spec["blocks"]), spec["width"], spec["classes"], norm(spec), jnp.dtype(spec["dtype"]))
    sgd = optax.sgd(spec["learning_rate"], spec["momentum"])
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name in dict.fromkeys(key.rpartition(".")[0] for key in weights):
        convert = kernel_from_torch if weights[f"{name}.weight"].ndim > 1 else norm_from_torch
        for collection, leaves in convert(weights, name).items():
            variables[collection][name] = leaves
    state = State.create(
        apply_fn=network.apply,
        tx=optax.chain(optax.add_decayed_weights(spec["weight_decay"]), sgd),
        **jax.device_put(variables, may_alias=False),
    )
    batch = jax.device_put((np.float32(images) / 255, labels))

    def train(count: int) -> float:
        nonlocal state
        for _ in range(count):
            state, loss = train_step(state, *batch)
        jax.block_until_ready(state)
        return float(loss)

    def state_dict() -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        params, batch_stats = jax.device_get((state.params, state.batch_stats))
        for name, leaves in params.items():
            convert = kernel_to_torch if "kernel" in leaves else norm_to_torch
            arrays |= convert({"params": leaves, "batch_stats": batch_stats.get(name, {})}, name)
        return arrays

    return SimpleNamespace(train=train, state_dict=state_dict, most=1)
