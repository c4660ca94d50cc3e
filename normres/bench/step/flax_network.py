"""Stock Flax as a contender: the ResNet and its training step as users of flax.linen and optax write them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state

from normres.bench.step.own import device_bytes
from normres.interop.modules import kernel_from_torch, kernel_to_torch, norm_from_torch, norm_to_torch

MakeNorm = Callable[..., nn.Module]


def norm(spec: dict[str, Any]) -> MakeNorm:
    """Returns the constructor of the spec's norm."""
    common = {"epsilon": spec["epsilon"], "dtype": jnp.dtype(spec["dtype"])}
    makers: dict[str, MakeNorm] = {
        "batch": partial(nn.BatchNorm, use_running_average=False, momentum=spec["kept"], **common),
        "group": partial(nn.GroupNorm, num_groups=spec["groups"], **common),
        "layer": partial(nn.LayerNorm, reduction_axes=(1, 2, 3), **common),
        "instance": partial(nn.InstanceNorm, **common),
    }
    return makers[spec["norm"]]


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    features: int
    stride: int
    norm: MakeNorm
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the block's output."""
        conv = partial(nn.Conv, self.features, (3, 3), padding=1, use_bias=False, dtype=self.dtype)
        y = conv(strides=self.stride, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.norm(name="bn2")(conv(name="conv2")(y))
        x = x[:, :: self.stride, :: self.stride]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return nn.relu(x + y)


class Network(nn.Module):
    """The CIFAR ResNet, its blocks one after another."""

    blocks: tuple[int, ...]
    width: int
    classes: int
    norm: MakeNorm
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns float32 logits."""
        x = nn.Conv(self.width, (3, 3), padding=1, use_bias=False, dtype=self.dtype, name="conv1")(images)
        x = nn.relu(self.norm(name="bn1")(x))
        for stage, count in enumerate(self.blocks):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                name = f"layer{stage + 1}_{number}"
                x = Block(self.width * 2**stage, stride, self.norm, self.dtype, name=name)(x)
        x = jnp.mean(x, axis=(1, 2))
        x = nn.Dense(self.classes, dtype=self.dtype, name="fc")(x)
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
    batch_stats = updated.get("batch_stats", {})
    return state.apply_gradients(grads=gradients, batch_stats=batch_stats), loss


class Flax:
    """See serve.Timed.  Unlike normres it gets its batch ready-made, in float32."""

    version = flax.__version__
    steps_per_program = 1

    def build(self, spec: dict[str, Any], weights: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> None:
        """Makes the network, with these weights, and the optimizer."""
        network = Network(tuple(spec["blocks"]), spec["width"], spec["classes"], norm(spec), jnp.dtype(spec["dtype"]))
        optimizer = optax.chain(
            optax.add_decayed_weights(spec["weight_decay"]), optax.sgd(spec["learning_rate"], spec["momentum"])
        )
        variables = jax.device_put(variables_from_torch(weights), may_alias=False)
        self.state = State.create(
            apply_fn=network.apply,
            params=variables["params"],
            tx=optimizer,
            batch_stats=variables.get("batch_stats", {}),
        )
        self.batch = jax.device_put((np.float32(images) / 255, labels))
        self.train: Any = train_step

    def compile(self) -> None:
        """Traces and compiles the step."""
        self.train = train_step.lower(self.state, *self.batch).compile()

    def step(self, count: int = 1) -> jax.Array:
        """Dispatches a step and returns its loss."""
        assert count == 1
        self.state, loss = self.train(self.state, *self.batch)
        return loss

    def wait(self, loss: jax.Array) -> float:
        """Returns the loss when all is computed."""
        jax.block_until_ready((self.state, loss))
        return float(loss)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns parameters and statistics in PyTorch's names."""
        return variables_to_torch(jax.device_get({"params": self.state.params, "batch_stats": self.state.batch_stats}))

    def device_bytes(self) -> int | None:
        """Returns the accelerator's peak."""
        return device_bytes()


def variables_from_torch(weights: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of Network: PyTorch's layer1.0.conv1 is layer1_0/conv1 here."""
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(key.rpartition(".")[0] for key in weights):
        convert = kernel_from_torch if weights[f"{name}.weight"].ndim > 1 else norm_from_torch
        for collection, leaves in convert(weights, name).items():
            inner = variables.setdefault(collection, {})
            for part in _path(name)[:-1]:
                inner = inner.setdefault(part, {})
            inner[_path(name)[-1]] = leaves
    return variables


def variables_to_torch(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """The reverse of variables_from_torch."""
    held: dict[str, dict[str, dict[str, Any]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        collection, *names, last = [entry.key for entry in path]
        held.setdefault(".".join(names).replace("_", "."), {}).setdefault(collection, {})[last] = leaf
    state_dict: dict[str, np.ndarray] = {}
    for name, own in held.items():
        state_dict |= (kernel_to_torch if "kernel" in own["params"] else norm_to_torch)(own, name)
    return state_dict


def _path(name: str) -> list[str]:
    """Returns layer1_0, conv1 for layer1.0.conv1."""
    words = name.split(".")
    return [f"{words[0]}_{words[1]}", words[2]] if len(words) == 3 else words
