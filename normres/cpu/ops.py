"""The CPU's sets of operations: convolutions by XLA or in C++, norms with written-out gradients, passes in rows."""

from functools import partial

from normres.cpu.activation import activation, add
from normres.cpu.conv import conv
from normres.cpu.normalization import normalization
from normres.layers import Ops

XLA = Ops(partial(conv, native=False), normalization, activation, add)
NATIVE = Ops(partial(conv, native=True), normalization, activation, add)
