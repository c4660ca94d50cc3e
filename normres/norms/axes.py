"""Letters for array axes: N (examples), S (all spatial axes; singly H, W and D) and C (channels)."""

LETTERS = "NSCHWD"


def reduction_axes(over: str, ndim: int, channel_axis: int = -1) -> tuple[int, ...]:
    """Turns letters into axis numbers: N is axis 0, C is `channel_axis`, S is every other axis.

    W, H and D name single spatial axes: the last, the one before it, and the one before that.  An array of two axes
    has no spatial axis, so S is then nothing.

    Raises:
      ValueError: another letter, an axis that is named twice or absent, or a channel axis out of range.
    """
    if not -ndim <= channel_axis < ndim or channel_axis % ndim == 0:
        raise ValueError(f"channel_axis={channel_axis} does not fit an array of {ndim} axes, of which 0 is N")
    channel_axis %= ndim
    spatial = tuple(axis for axis in range(1, ndim) if axis != channel_axis)
    meaning = {"N": (0,), "C": (channel_axis,), "S": spatial}
    meaning |= {letter: (axis,) for letter, axis in zip("WHD", reversed(spatial), strict=False)}
    absent = sorted(set(over) - set(meaning))
    if absent:
        raise ValueError(f"over={over!r}: an array of {ndim} axes has no {absent[0]!r}; choices: {', '.join(meaning)}")
    axes = [axis for letter in over for axis in meaning[letter]]
    if len(set(axes)) != len(axes):
        raise ValueError(f"over={over!r} names an axis twice")
    return tuple(sorted(axes))
