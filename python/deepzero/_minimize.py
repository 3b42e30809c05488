"""`minimize`, with the calling convention of `scipy.optimize.minimize`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core
from ._optimizer import BoundsLike, Optimizer, points_of

# Bytes of points that are made at a time: few enough that their memory is used again.
_CHUNK_BYTES = 16 << 20


class Failed(Exception):
    """To be raised by a function that has no value at a point: the evaluation fails, the run goes on."""


class OptimizeResult(dict[str, Any]):
    """A dict whose items are attributes, too.

    Items:
        x: best point that was evaluated, shape (d,); the start if there is no value.
        fun: its value; NaN if there is none.
        success: whether there is a value and the run was not stuck.
        status: 0 the budget is spent or the run goes on, 1 stopped by the callback or the caller, 2 the method has come
            to its end, 3 stuck, since the function failed too often.
        message: the same in words.
        nfev: evaluations, failures included.
        nfev_failed: failures.
        nit: steps.
        jac: the last estimate of the gradient, shape (d,), for methods that make any.
        x_last: the point where the method stands, shape (d,); for a noisy function better than `x`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        del self[name]

    def __dir__(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:>{width}}: {value!r}" for name, value in self.items())


def result_of(core: _core.Core, status: int, message: str) -> OptimizeResult:
    """What came of a run so far."""
    best = core.best
    nfev, failed, nit = core.counts
    result = OptimizeResult(
        x=core.x if best is None else best[2],
        fun=float("nan") if best is None else best[1],
        success=best is not None and status != 3,
        status=status,
        message=message,
        nfev=nfev,
        nfev_failed=failed,
        nit=nit,
        x_last=core.x,
    )
    gradient = core.gradient
    if gradient is not None:
        result["jac"] = gradient
    return result


def _value(fun: Callable[..., Any], x: NDArray[np.float64], args: tuple[Any, ...]) -> float:
    try:
        value = fun(x, *args)
    except Failed:
        return float("nan")
    if value is None:
        return float("nan")
    return float(np.asarray(value, dtype=np.float64).item())


def minimize(
    fun: Callable[..., Any],
    x0: ArrayLike,
    args: Any = (),
    *,
    method: str = "rge",
    bounds: BoundsLike = None,
    maxfev: Optional[float] = None,
    maxiter: Optional[float] = None,
    workers: Union[int, Callable[..., Iterable[Any]]] = 1,
    vectorized: bool = False,
    callback: Optional[Callable[[OptimizeResult], Any]] = None,
    seed: int = 0,
    run: Optional[Union[str, os.PathLike[str]]] = None,
    options: Optional[Mapping[str, Any]] = None,
) -> OptimizeResult:
    """Minimizes `fun` from its values alone.

    Args:
        fun: `fun(x, *args)` with x of shape (d,) gives a number; NaN, infinity, None or a raised `Failed` is a failure,
            which is left out. Any other exception ends the run and is passed on. With `vectorized`, x has shape (n, d)
            and n numbers come back.
        x0: starting point, shape (d,).
        args: further arguments of `fun`; one that is no tuple is the only one.
        method: `rge` (random directions), `cge` (every coordinate), `cocd` (some coordinates at a time, in a cycle) or
            `pattern-search`.
        bounds: pairs (low, high) for every coordinate, None for no bound, or an object with `lb` and `ub`; no point lies
            outside.
        maxfev: evaluations at most; 200 d if neither this nor `maxiter` is given.
        maxiter: steps at most.
        workers: threads that evaluate, or a map such as that of a pool of processes. The result does not depend on it.
        vectorized: whether `fun` takes many points at a time.
        callback: hears an OptimizeResult after every step; raising StopIteration ends the run.
        seed: seed of everything random.
        run: a folder that keeps a log of all values; the same call goes on from there.
        options: settings of the method; `deepzero minimize --help` lists them.

    Returns:
        An OptimizeResult.

    Example:
        >>> result = minimize(lambda x: ((x - 1) ** 2).sum(), [0.0, 3.0], method="cge", maxfev=2000)
        >>> result.x.round(2).tolist()
        [1.0, 1.0]
    """
    optimizer = Optimizer(x0, method=method, bounds=bounds, seed=seed, run=run, options=options)
    most_steps, budget = _count("maxiter", maxiter), _count("maxfev", maxfev)
    if vectorized and workers != 1:
        raise ValueError("workers: a vectorized function is called once at a time; leave it at 1")
    core, d = optimizer._core, len(optimizer._x0)
    if budget is None:
        budget = 200 * d if most_steps is None else 2**62
    pool: Optional[ThreadPoolExecutor] = None
    mapped: Callable[..., Iterable[Any]] = map
    chunk = max(_CHUNK_BYTES // (8 * d), 1)
    if callable(workers):
        mapped = workers
    elif workers < 1:
        raise ValueError(f"workers: expected at least 1; got {workers}")
    elif workers > 1:
        pool = ThreadPoolExecutor(workers)
        mapped, chunk = pool.map, max(chunk, workers)
    args = args if isinstance(args, tuple) else (args,)
    call = _Call(fun, args)
    stopped = None
    try:
        while core.stopped is None and (most_steps is None or core.counts[2] < most_steps):
            left = budget - core.counts[0]
            if left <= 0:
                break
            batch = core.ask(min(left, chunk))
            if not len(batch):
                break
            points, began = points_of(batch), time.perf_counter()
            if vectorized:
                values = np.array(fun(points, *args), dtype=np.float64)
                if values.shape != (len(batch),):
                    raise ValueError(f"fun: expected {len(batch)} values for as many points; got shape {values.shape}")
            else:
                values = _values(core, batch, mapped(call, points))
            seconds = (time.perf_counter() - began) / len(batch) if run is not None else None
            if core.tell_batch(batch, values, seconds) and callback is not None:
                try:
                    callback(result_of(core, 0, "the run goes on"))
                except StopIteration:
                    stopped = (1, "stopped by the callback")
                    break
    finally:
        if pool is not None:
            pool.shutdown()
        core.take_back()
        try:
            core.sync(core.counts[0] >= budget)
        finally:
            # A traceback may hold the optimizer, and with it the folder.
            core.close()
    if stopped is None and core.stopped is not None:
        stopped = (2 if core.stopped[0] == "converged" else 3, core.stopped[1])
    if stopped is None:
        spent = core.counts[0] >= budget
        stopped = (0, f"the budget of {budget} evaluations is spent" if spent else f"{most_steps} steps are done")
    return result_of(core, *stopped)


def _count(name: str, value: Optional[float]) -> Optional[int]:
    """A number of at least 1, as an integer; whole numbers of any type are taken."""
    if value is None:
        return None
    if not 1 <= value < 2**63 or int(value) != value:
        raise ValueError(f"{name}: expected an integer of at least 1; got {value}")
    return int(value)


def _values(core: _core.Core, batch: _core.Batch, coming: Iterable[float]) -> NDArray[np.float64]:
    """The values of a batch as they come; those that came before an exception are told, so that they are not lost."""
    values: list[float] = []
    try:
        for value in coming:
            values.append(value)
    except BaseException:
        core.tell(batch.ids[: len(values)], np.array(values))
        raise
    return np.array(values, dtype=np.float64)


class _Call:
    """A function with its arguments, which processes can be sent."""

    def __init__(self, fun: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.fun, self.args = fun, args

    def __call__(self, x: NDArray[np.float64]) -> float:
        return _value(self.fun, x, self.args)
