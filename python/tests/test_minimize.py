"""minimize: the calling convention of scipy, failures, going on."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import deepzero

METHODS = ["rge", "cge", "cocd", "pattern-search"]
X0 = np.array([1.0, -2.0, 0.5])


def bowl(x, scale=1.0):
    return scale * float((np.arange(1, x.shape[-1] + 1) * (x - 0.25) ** 2).sum())


def bowls(points):
    return np.array([bowl(x) for x in points])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_down(method):
    result = deepzero.minimize(bowl, X0, method=method, maxfev=3000)
    assert result.success and result.fun < 1e-2 and result.x.shape == (3,)
    assert result.fun == bowl(result.x)
    assert ("jac" in result) == (method != "pattern-search")
    assert result.nfev <= 3000 and result.nfev_failed == 0 and result.nit > 0
    assert result.status == (2 if method == "pattern-search" else 0)


@pytest.mark.parametrize("method", METHODS)
def test_workers_and_vectors_do_not_change_bits(method):
    one = deepzero.minimize(bowl, X0, method=method, maxfev=300)
    with ThreadPoolExecutor(2) as pool:
        others = [
            deepzero.minimize(bowl, X0, method=method, maxfev=300, workers=3),
            deepzero.minimize(bowl, X0, method=method, maxfev=300, workers=pool.map),
            deepzero.minimize(bowls, X0, method=method, maxfev=300, vectorized=True),
        ]
    for other in others:
        assert other.keys() == one.keys()
        for name in one:
            assert np.array_equal(one[name], other[name]), name


def test_arguments_and_options():
    result = deepzero.minimize(bowl, X0, (2.0,), maxiter=4, options={"queries": 3, "difference": "forward"})
    assert result.nit == 4 and result.nfev == 16 and result.message == "4 steps are done"
    seeds = [deepzero.minimize(bowl, X0, maxfev=100, seed=seed).fun for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_conventions_of_scipy():
    whole = deepzero.minimize(bowl, X0, args=(2.0,), maxfev=100).fun
    assert deepzero.minimize(bowl, X0, args=2.0, maxfev=1e2).fun == whole
    assert deepzero.minimize(lambda x: np.array([bowl(x, 2.0)]), X0, maxfev=np.int64(100)).fun == whole


@pytest.mark.parametrize("vectorized", [False, True])
def test_a_search_may_end_before_it_asks(vectorized):
    # The search ends where no move is large enough to change such coordinates.
    result = deepzero.minimize(
        lambda x: ((x - 1e9) ** 2).sum(axis=-1),
        [1e9 - 3.3, 1e9 + 1.7],
        method="pattern-search",
        bounds=[(0, 2e9)] * 2,
        maxfev=5000,
        vectorized=vectorized,
    )
    assert result.status == 2 and result.nfev < 5000


def test_bounds():
    seen = []

    def noted(x):
        seen.append(x.copy())
        return bowl(x)

    bounds = [(0.5, None), (None, 0.0), (0.5, 0.6)]
    result = deepzero.minimize(noted, [1.0, -2.0, 0.5], method="cge", bounds=bounds, maxfev=2000)
    seen = np.array(seen)
    assert (seen[:, 0] >= 0.5).all() and (seen[:, 1] <= 0.0).all()
    assert (seen[:, 2] >= 0.5).all() and (seen[:, 2] <= 0.6).all()
    least = bowl(np.array([0.5, 0.0, 0.5]))
    assert result.fun < least + 0.01
    with pytest.raises(ValueError, match="for each of 3 coordinates"):
        deepzero.minimize(bowl, X0, bounds=[(0, 1)])
    with pytest.raises(ValueError, match="outside of its bounds"):
        deepzero.minimize(bowl, X0, bounds=[(0, 1)] * 3)


def test_failures_are_left_out():
    def fails(x):
        fails.n += 1
        if fails.n % 10 == 3:
            raise deepzero.Failed("no value")
        return {5: np.nan, 11: None, 17: np.inf}.get(fails.n % 20, bowl(x))

    fails.n = 0
    result = deepzero.minimize(fails, X0, method="cge", maxfev=3000)
    assert result.success and result.fun < 1e-2 and result.nfev_failed > 300
    never = deepzero.minimize(lambda x: np.nan, X0, maxfev=10_000)
    assert not never.success and never.status == 3 and np.isnan(never.fun) and never.nfev < 1000
    assert np.array_equal(never.x, X0)


def test_other_exceptions_lose_nothing(tmp_path):
    whole = deepzero.minimize(bowl, X0, maxfev=200)
    seen = []

    def breaks(x):
        seen.append(tuple(x))
        if len(seen) == 120:
            raise KeyboardInterrupt
        return bowl(x)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        deepzero.minimize(breaks, X0, maxfev=200, run=run)
    again = deepzero.minimize(breaks, X0, maxfev=200, run=run)
    assert again.fun == whole.fun and np.array_equal(again.x, whole.x) and again.nfev == 200
    # Only the point that broke was evaluated twice.
    assert len(seen) == 200 + 1
    longer = deepzero.minimize(breaks, X0, maxfev=300, run=run)
    assert longer.nfev == 300 and (run / "report.html").exists()
    assert longer.fun == deepzero.minimize(bowl, X0, maxfev=300).fun
    with pytest.raises(OSError, match="seed"):
        deepzero.minimize(bowl, X0, maxfev=300, run=run, seed=1)


def test_callback_stops():
    steps = []

    def callback(result):
        steps.append(result.nit)
        if len(steps) == 5:
            raise StopIteration

    result = deepzero.minimize(bowl, X0, callback=callback)
    assert steps == [1, 2, 3, 4, 5] and result.status == 1 and result.success


def test_mistakes_are_told():
    for match, change in [
        ("method", {"method": "newton"}),
        ("no such setting", {"options": {"epochs": 3}}),
        ("pattern-search", {"options": {"radius": 3}}),
        ("above 0", {"options": {"mu": -1.0}}),
        ("an argument of its own", {"options": {"method": "cge"}}),
        ("numbers, texts or booleans", {"options": {"mu": object()}}),
        ("maxfev", {"maxfev": 0}),
        ("maxfev", {"maxfev": 1.5}),
        ("workers", {"workers": 0}),
        ("vectorized", {"workers": 2, "vectorized": True}),
    ]:
        with pytest.raises(ValueError, match=match):
            deepzero.minimize(bowl, X0, **change)
    with pytest.raises(ValueError, match="shape"):
        deepzero.minimize(bowl, [[1.0]])
    with pytest.raises(ValueError, match="finite"):
        deepzero.minimize(bowl, [1.0, np.nan])
    with pytest.raises(ValueError, match="expected 50 values|values for as many points"):
        deepzero.minimize(lambda points: 1.0, X0, vectorized=True)


def test_results_are_attributes():
    result = deepzero.minimize(bowl, X0, maxfev=10)
    assert result.nfev == result["nfev"] == 10 and "nfev" in dir(result) and "fun" in repr(result)
    with pytest.raises(AttributeError):
        result.nothing
