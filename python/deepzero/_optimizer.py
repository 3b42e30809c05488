"""Ask and tell."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core

if TYPE_CHECKING:
    from ._minimize import OptimizeResult

BoundsLike = Union[None, Sequence[tuple[Optional[float], Optional[float]]], Any]
"""Pairs (low, high) with None for no bound, or an object with `lb` and `ub` such as scipy's `Bounds`."""


def bounds_of(bounds: BoundsLike, d: int) -> Optional[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Lower and upper bounds, each of shape (d,), infinite where there is none."""
    if bounds is None:
        return None
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):
        lower, upper = bounds.lb, bounds.ub
    else:
        pairs = list(bounds)
        if len(pairs) != d:
            raise ValueError(f"bounds: expected a pair (low, high) for each of {d} coordinates; got {len(pairs)}")
        lower = [-np.inf if low is None else low for low, _ in pairs]
        upper = [np.inf if high is None else high for _, high in pairs]
    full = (np.broadcast_to(np.asarray(bound, dtype=np.float64), (d,)) for bound in (lower, upper))
    low, high = (np.ascontiguousarray(bound) for bound in full)
    return low, high


def options_of(method: str, options: Optional[Mapping[str, Any]]) -> str:
    """The settings as JSON."""
    named = {name.replace("_", "-"): value for name, value in (options or {}).items()}
    if "method" in named:
        raise ValueError("options: `method` is an argument of its own")
    try:
        return json.dumps({"method": method, **named}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"options: expected names with numbers, texts or booleans; {error}") from None


def points_of(batch: _core.Batch) -> NDArray[np.float64]:
    """The points as rows, shape (n, d)."""
    points = np.empty((len(batch), batch.dim))
    batch.write(points)
    return points


class Ask:
    """Points that `Optimizer.ask` gave: evaluate them with one and the same `sample`.

    Attributes:
        ids: numbers of the evaluations, n of them; `Optimizer.tell` takes them.
        sample: which randomness (or mini-batch) all these points must share, None without points.
        points: the points as rows of a float64 array of shape (n, d), made when asked for.
        probes: the points one by one, as coordinate and step, or number of a random direction and step; `delta(start,
            stop)` gives what to add to `Optimizer.x` there, so that n x d numbers are never needed.
    """

    def __init__(self, batch: _core.Batch) -> None:
        self._batch = batch
        self.ids: list[int] = batch.ids
        self.sample: Optional[int] = batch.sample

    @property
    def points(self) -> NDArray[np.float64]:
        return points_of(self._batch)

    @property
    def probes(self) -> list[_core.Point]:
        return self._batch.probes

    def __len__(self) -> int:
        return len(self._batch)


class Optimizer:
    """Minimizes by ask and tell; it evaluates nothing.

    What it asks for is a function of its arguments and the values told. The order of values does not matter.

    Args:
        x0: starting point, shape (d,).
        method: `rge`, `cge`, `cocd` or `pattern-search`.
        bounds: pairs (low, high) for every coordinate, None for no bound, or an object with `lb` and `ub`.
        seed: seed of everything random.
        run: a folder that keeps a log of all values; an optimizer with the same arguments goes on from there.
        options: settings of the method, such as `{"learning-rate": 0.02}`; `deepzero minimize --help` lists them.

    Example:
        >>> optimizer = Optimizer([1.0, -2.0], method="cge")
        >>> for _ in range(200):
        ...     ask = optimizer.ask()
        ...     _ = optimizer.tell(ask.ids, (ask.points**2).sum(axis=1))
        >>> bool(optimizer.result.fun < 1e-3)
        True
    """

    def __init__(
        self,
        x0: ArrayLike,
        *,
        method: str = "rge",
        bounds: BoundsLike = None,
        seed: int = 0,
        run: Optional[Union[str, os.PathLike[str]]] = None,
        options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        start = np.array(x0, dtype=np.float64)
        if start.ndim != 1:
            raise ValueError(f"x0: expected shape (d,); got {start.shape}")
        self._x0 = start
        self._bounds = bounds_of(bounds, len(start))
        self._seed = seed
        folder = None if run is None else os.fspath(run)
        self._core = _core.Core(start, self._bounds, options_of(method, options), seed, folder)
        self._stopped = False

    def ask(self, n: Optional[int] = None) -> Ask:
        """The next points: at most `n` of them, fewer where the present step has no more, none while it waits for values
        or once it has stopped. Without `n`, all of the step."""
        if n is not None and n < 1:
            raise ValueError(f"n: expected at least 1; got {n}")
        if self._stopped:
            return Ask(self._core.ask(0))
        return Ask(self._core.ask(2**62 if n is None else n))

    def tell(self, ids: Union[int, Sequence[int]], f: ArrayLike) -> bool:
        """The values `f` of the points `ids`, in any order; NaN for one that failed. Whether a step was done, and `x`
        moved."""
        if self._stopped:
            raise ValueError("the optimizer was stopped")
        numbers = [int(ids)] if isinstance(ids, (int, np.integer)) else [int(id) for id in ids]
        values = np.atleast_1d(np.asarray(f, dtype=np.float64))
        return self._core.tell(numbers, values)

    def stop(self) -> None:
        """Ends it: nothing more is asked for, and nothing can be told. With `run`, brings everything to the disk, writes the
        report and leaves the folder to others."""
        if not self._stopped:
            self._stopped = True
            self._core.sync(False)
            self._core.close()

    @property
    def x(self) -> NDArray[np.float64]:
        """The present point, shape (d,): the center of the points that are asked for."""
        return self._core.x

    @property
    def stopped(self) -> Optional[str]:
        """Why nothing more is asked for, None if something is."""
        stopped = self._core.stopped
        if stopped is not None:
            return stopped[1]
        return "stopped by the caller" if self._stopped else None

    @property
    def waiting(self) -> list[int]:
        """Numbers of the points that are out and not told."""
        return self._core.waiting

    @property
    def options(self) -> dict[str, Any]:
        """All settings that play a part."""
        options: dict[str, Any] = json.loads(self._core.options)
        return options

    @property
    def result(self) -> OptimizeResult:
        """What came of it so far; `x` is the best point that was evaluated, shape (d,)."""
        from ._minimize import result_of

        status, message = (0, "the run goes on") if self.stopped is None else (1, self.stopped)
        stopped = self._core.stopped
        if stopped is not None:
            status = 2 if stopped[0] == "converged" else 3
        return result_of(self._core, status, message)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest depends on: numbers, texts and arrays, to be saved by pickle, torch or numpy."""
        lower, upper = (None, None) if self._bounds is None else self._bounds
        return {
            "version": 1,
            "x0": self._x0,
            "lower": lower,
            "upper": upper,
            "seed": self._seed,
            "options": self.options,
            "state": self._core.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, arguments included. Points that were out are asked for again."""
        if self._core.folder is not None:
            raise ValueError("load_state_dict: an optimizer with `run` has its state there")
        if state.get("version") != 1:
            raise ValueError(f"state: expected version 1; got {state.get('version')}")
        bounds = None
        if state["lower"] is not None:
            bounds = np.array(state["lower"], dtype=np.float64), np.array(state["upper"], dtype=np.float64)
        x0 = np.array(state["x0"], dtype=np.float64)
        vectors = [(name, np.array(values, dtype=np.float64)) for name, values in state["state"].items()]
        core = _core.Core.restored(x0, bounds, json.dumps(state["options"]), state["seed"], vectors)
        core.take_back()
        self._core, self._x0, self._bounds, self._seed = core, x0, bounds, state["seed"]
        self._stopped = False
