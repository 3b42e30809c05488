"""Minimize functions from their values alone: the zeroth-order methods of deepzero.

`minimize` has the calling convention of `scipy.optimize.minimize`; `Optimizer` asks for points and is told values;
`read_results` reads the result files of experiments.
"""

from ._core import __version__
from ._optimizer import Ask, Optimizer
from ._minimize import Failed, OptimizeResult, minimize
from ._results import read_results

__all__ = ["Ask", "Failed", "OptimizeResult", "Optimizer", "__version__", "minimize", "read_results"]
