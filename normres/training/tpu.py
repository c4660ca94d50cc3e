"""What a training step does in another way on a TPU: the same numbers within rounding, and fewer bytes moved.

The TPU's compiler counted them (docs/accelerators.md).
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from normres.layers import PLAIN, Ops
from normres.models.resnet import ResNet, unrolls
from normres.norms import Moments, NormSpec, forms, normalization

Variables = Mapping[str, Any]


def scaled_last(terms: forms.Terms) -> jax.Array:
    """forms.standardized, with scale and bias after it where the statistics have another shape than they.

    So no product of both, which has a number for each example and channel, is written and read.
    """
    alike = all(each.shape == terms.moments[0].var.shape for each in terms.parameters.values())
    return forms.standardized(terms) if alike else terms.affine(terms.standardized())


def normalize(
    x: jax.Array, spec: NormSpec, params: Mapping[str, jax.Array] | None = None, **options: Any
) -> tuple[jax.Array, Moments | None]:
    """norms.normalization, with the same arguments, values and errors."""
    spec = replace(spec, form=scaled_last) if spec.form is forms.standardized else spec
    return normalization(x, spec, params, **options)


OPERATIONS: Ops = PLAIN._replace(normalization=normalize)


@dataclass(frozen=True)
class BlockByBlock:
    """A network whose unrolled blocks have variables of their own, `stage1_block2`, in place of a stack, `stage1_rest`.

    So the optimizer reads each gradient where it is made, and no stack of them is written.  It has what a training step
    asks of a Flax module.

    Attributes:
      network: the Flax module.
      stages: the names of the stacks that are taken apart.
    """

    network: nn.Module
    stages: frozenset[str]

    @property
    def ops(self) -> Ops:
        """The network's operations."""
        operations: Ops = getattr(self.network, "ops", PLAIN)
        return operations

    def clone(self, **fields: Any) -> "BlockByBlock":
        """Returns a network with other fields."""
        return replace(self, network=self.network.clone(**fields))

    def apply(self, variables: Variables, *inputs: Any, **options: Any) -> Any:
        """As nn.Module.apply, for variables in either form; those that change are returned apart."""
        result: Any = self.network.apply(together(variables), *inputs, **options)
        if not options.get("mutable"):
            return result
        outputs, changed = result
        return outputs, apart(changed, self.stages)


def block_by_block(network: nn.Module) -> BlockByBlock | None:
    """Returns the network with the blocks of its unrolled stages apart, or None if it has none."""
    if not isinstance(network, ResNet):
        return None
    several = [stage for stage, blocks in enumerate(network.config.blocks) if blocks > 1]
    stages = frozenset(f"stage{stage + 1}_rest" for stage in several if unrolls(network.config, stage))
    return BlockByBlock(network, stages) if stages else None


@jax.jit
def _blocks(stack: Any) -> list[Any]:
    count = len(jax.tree.leaves(stack)[0])
    return [jax.tree.map(operator.itemgetter(number), stack) for number in range(count)]


@jax.jit
def _stack(blocks: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)


def apart(tree: Any, stages: frozenset[str]) -> Any:
    """Returns a tree of variables (params, an optimizer's state, ...) with a subtree for each block of `stages`."""

    def split(layers: dict[str, Any]) -> dict[str, Any]:
        result = {name: layer for name, layer in layers.items() if name not in stages}
        for name in stages & set(layers):
            blocks = enumerate(_blocks(layers[name]), start=2)
            result |= {name.replace("rest", f"block{number}"): block for number, block in blocks}
        return result

    return _changed(tree, split, stages.__contains__)


def together(tree: Any) -> Any:
    """Returns a tree with the stacks that `apart` has taken apart; other arrays are those of the tree itself."""
    is_block = re.compile(r"stage\d+_block\d+").fullmatch

    def joined(layers: dict[str, Any]) -> dict[str, Any]:
        result = {name: layer for name, layer in layers.items() if not is_block(name)}
        blocks = sorted(filter(is_block, layers), key=lambda name: int(name.rpartition("block")[2]))
        for stage in dict.fromkeys(name.partition("_")[0] for name in blocks):
            result[f"{stage}_rest"] = _stack([layers[name] for name in blocks if name.startswith(f"{stage}_")])
        return result

    return _changed(tree, joined, is_block)


def _changed(tree: Any, change: Callable[[dict[str, Any]], dict[str, Any]], wanted: Callable[[str], Any]) -> Any:
    """Changes the dictionaries of a tree that have a wanted name."""

    def has_one(node: Any) -> bool:
        return isinstance(node, dict) and any(map(wanted, node))

    return jax.tree.map(lambda node: change(node) if has_one(node) else node, tree, is_leaf=has_one)


def free(tree: Any, kept: Any) -> None:
    """Frees the memory of the arrays of a tree that are not also in the tree `kept`."""
    there = set(map(id, jax.tree.leaves(kept)))
    for leaf in jax.tree.leaves(tree):
        if id(leaf) not in there:
            leaf.delete()
