"""The CPU's sets of operations: convolutions by XLA or in C++, norms with written-out gradients, passes in rows."""

from functools import partial

from normres.cpu.activation import activation
from normres.cpu.conv import conv
from normres.cpu.normalization import normalization
from normres.layers import PLAIN, Ops

XLA = Ops(partial(conv, native=False), normalization, activation, PLAIN.add)
NATIVE = Ops(partial(conv, native=True), normalization, activation, PLAIN.add)
