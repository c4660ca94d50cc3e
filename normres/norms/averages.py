"""Running averages of a norm's statistics, which evaluation uses in place of a batch's own."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from normres.norms.moments import Moments

KINDS = ("exponential", "debiased", "cumulative")


@dataclass(frozen=True)
class Average:
    """How running statistics are updated from a batch's statistics.

    Attributes:
      kind: "exponential"; "debiased", the same corrected for its start (as Adam does), so that the first batch
        counts fully; or "cumulative", the plain mean of all batches so far.
      momentum: share of the old value that stays; not for "cumulative".
      torch_momentum: `momentum` is PyTorch's instead: the share of the new value.
      unbiased: average the unbiased variance, n / (n - 1) times the biased one, as PyTorch does.
    """

    kind: str = "exponential"
    momentum: float = 0.9
    torch_momentum: bool = False
    unbiased: bool = False

    def kept(self, updates: jax.Array | None) -> jax.Array | float:
        """Returns the share of the old value in update number `updates` + 1.

        A debiased average m_t / (1 - k^t), m_t = k m_(t-1) + (1 - k) x_t, is itself an average whose old value
        keeps the share k (1 - k^(t-1)) / (1 - k^t); so all three kinds differ in this share only.
        """
        k = 1 - self.momentum if self.torch_momentum else self.momentum
        if self.kind == "exponential":
            return k
        assert updates is not None, f"a {self.kind} average counts its updates"
        if self.kind == "cumulative":
            return updates / (updates + 1)
        if self.kind != "debiased":
            raise ValueError(f"kind={self.kind!r} does not exist; choices: {', '.join(KINDS)}")
        return k * (1 - k**updates) / (1 - k ** (updates + 1))

    def update(
        self, mean: jax.Array, var: jax.Array, batch: Moments, updates: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the running mean and variance after a batch: kept * old + (1 - kept) * new.

        `mean` and `var` lack the reduced axes; the batch's moments have size 1 there.  An empty batch changes nothing.
        """
        batch = Moments(*(jnp.broadcast_to(value, batch.mean.shape).reshape(mean.shape) for value in batch))
        new_var = batch.var * batch.count / jnp.maximum(batch.count - 1, 1) if self.unbiased else batch.var
        kept = jnp.where(batch.count > 0, self.kept(updates), 1.0)
        return kept * mean + (1 - kept) * batch.mean, kept * var + (1 - kept) * new_var


def pooled(moments: Moments) -> Moments:
    """Averages sub-batches' moments (N, ...) over axis 0, weighted by count; var omits that between means."""
    each = moments.count * jnp.ones_like(moments.mean)
    share = moments.count / jnp.maximum(jnp.sum(each, 0, keepdims=True), 1)
    mean, var = (jnp.sum(value * share, 0, keepdims=True) for value in (moments.mean, moments.var))
    return Moments(mean, var, jnp.max(each, 0, keepdims=True, initial=0))
