"""Normalization as a choice of axes: pure functions, arrays in, arrays out.

Read table.py first: its rows are the norms.  spec.py applies a row, moments.py has the statistics, forms.py the
formulas, averages.py the running averages, kernels.py the norms of weights.
"""

from normres.norms.averages import KINDS, Average, pooled
from normres.norms.moments import Moments, moments, normalize
from normres.norms.spec import About, NormSpec, Parameter, normalization, reduction_axes
from normres.norms.table import TABLE, find_spec

__all__ = [
    "KINDS",
    "TABLE",
    "About",
    "Average",
    "Moments",
    "NormSpec",
    "Parameter",
    "find_spec",
    "moments",
    "normalization",
    "normalize",
    "pooled",
    "reduction_axes",
]
