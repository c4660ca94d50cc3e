"""Images on the devices: rows of bytes, which every device looks up without copying the data set."""

from dataclasses import dataclass, field
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FlatImages:
    """Images of which each is a row.

    A TPU lays an array (N, 32, 32, 3) out with N last.  To look images up it would copy the whole of it in every step.

    Attributes:
      rows: uint8 (N, H * W * C).
      shape: (H, W, C).
    """

    rows: Any
    shape: tuple[int, ...] = field(metadata={"static": True})

    @classmethod
    def of(cls, images_NHWC: Any) -> "FlatImages":
        """Returns images uint8 (N, H, W, C) as rows; copies nothing."""
        return cls(images_NHWC.reshape(len(images_NHWC), -1), images_NHWC.shape[1:])

    def look_up(self, indices: jax.Array) -> jax.Array:
        """Returns uint8 (*indices.shape, H, W, C); `indices` are not negative and less than N."""
        return looked_up(self.rows, indices).reshape(*indices.shape, *self.shape)

    def whole(self) -> Any:
        """Returns all of them, uint8 (N, H, W, C)."""
        return self.rows.reshape(-1, *self.shape)


def looked_up(rows: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns rows[indices]; the indices are not checked, which would cost operations of their own."""
    return rows.at[indices].get(mode="promise_in_bounds")
