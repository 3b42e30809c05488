"""Optimizer: ask, tell, probes, state."""

import pickle

import numpy as np
import pytest

import deepzero

METHODS = ["rge", "cge", "cocd", "pattern-search"]
X0 = [1.0, -2.0, 0.5, 3.0]


def f(x):
    return (np.arange(1, x.shape[-1] + 1) * (x - 0.25) ** 2).sum(axis=-1)


def run(optimizer, n, shuffled=None, size=None):
    while optimizer.result.nfev < n and optimizer.stopped is None:
        ask = optimizer.ask(size)
        order = np.arange(len(ask))
        if shuffled is not None:
            shuffled.shuffle(order)
        points = ask.points
        assert points.shape == (len(ask), len(X0)) and points.dtype == np.float64
        for i in order:
            optimizer.tell(ask.ids[i], f(points[i]))
    return optimizer


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_values_does_not_matter(method):
    one = run(deepzero.Optimizer(X0, method=method), 200)
    other = run(deepzero.Optimizer(X0, method=method), 200, shuffled=np.random.default_rng(1))
    assert np.array_equal(one.x, other.x) and one.result.fun == other.result.fun
    assert one.result.fun < 0.7 * f(np.array(X0))


@pytest.mark.parametrize("directions", ["rademacher", "gaussian", "sphere"])
def test_probes_are_points(directions):
    optimizer = deepzero.Optimizer(np.linspace(0, 1, 3000), options={"directions": directions, "queries": 4})
    ask = optimizer.ask()
    points, x = ask.points, optimizer.x
    assert ask.probes[0].step == 0.0 and ask.probes[0].direction is None
    for probe, point in zip(ask.probes, points):
        assert np.allclose(x + probe.delta(), point, rtol=0, atol=1e-15)
        assert np.allclose(x[1000:2100] + probe.delta(1000, 2100), point[1000:2100], rtol=0, atol=1e-15)
        assert np.array_equal(probe.x(), point) and probe.sample == ask.sample
    assert [probe.id for probe in ask.probes] == ask.ids
    with pytest.raises(ValueError, match="of 3000"):
        ask.probes[0].delta(0, 3001)


def test_probes_of_coordinates():
    ask = deepzero.Optimizer(X0, method="cge").ask()
    assert [probe.coordinate for probe in ask.probes] == [None, 0, 0, 1, 1, 2, 2, 3, 3]
    assert [probe.step for probe in ask.probes[1:3]] == [0.005, -0.005]


@pytest.mark.parametrize("method", METHODS)
def test_a_state_goes_on_to_the_same_bits(method):
    options = {"mu": 0.01} if method != "pattern-search" else {"radius": 0.5}
    whole = run(deepzero.Optimizer(X0, method=method, options=options), 200, size=1)
    optimizer = deepzero.Optimizer(X0, method=method, options=options)
    run(optimizer, 50, size=3)
    optimizer.ask(2)
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    other = deepzero.Optimizer([0.0])
    other.load_state_dict(state)
    assert other.waiting == [] and other.options == optimizer.options
    run(other, 200, size=1)
    assert other.result.nfev == whole.result.nfev == 200
    assert np.array_equal(other.x, whole.x) and other.result.fun == whole.result.fun
    for name in ("x", "counts"):
        broken = {**state, "state": {**state["state"], name: np.array([1.0])}}
        with pytest.raises(ValueError, match="state: "):
            other.load_state_dict(broken)
    with pytest.raises(ValueError, match="version"):
        other.load_state_dict({**state, "version": 2})


def test_bounds_come_back_with_a_state():
    class Bounds:
        lb, ub = 0.0, [np.inf, 2.0]

    optimizer = deepzero.Optimizer([1.0, 1.0], bounds=Bounds())
    other = deepzero.Optimizer([5.0])
    other.load_state_dict(optimizer.state_dict())
    assert np.array_equal(other.ask().points, optimizer.ask().points)


def test_a_folder_goes_on(tmp_path):
    whole = run(deepzero.Optimizer(X0), 150)
    parts = run(deepzero.Optimizer(X0, run=tmp_path / "run"), 60)
    with pytest.raises(OSError, match="another process"):
        deepzero.Optimizer(X0, run=tmp_path / "run")
    with pytest.raises(ValueError, match="has its state there"):
        parts.load_state_dict(whole.state_dict())
    parts.stop()
    assert len(parts.ask()) == 0 and parts.stopped == "stopped by the caller"
    with pytest.raises(ValueError, match="was stopped"):
        parts.tell(0, 1.0)
    parts = run(deepzero.Optimizer(X0, run=tmp_path / "run"), 150)
    assert np.array_equal(parts.x, whole.x) and parts.result.fun == whole.result.fun


def test_what_was_not_asked_cannot_be_told():
    optimizer = deepzero.Optimizer(X0)
    with pytest.raises(ValueError, match="nothing was asked"):
        optimizer.tell(0, 1.0)
    ask = optimizer.ask(2)
    assert ask.ids == [0, 1] == optimizer.waiting and len(ask) == 2
    assert optimizer.tell(ask.ids, [1.0, np.nan]) is False
    with pytest.raises(ValueError, match="told before"):
        optimizer.tell(1, 1.0)
    with pytest.raises(ValueError, match="1 values for 2 points"):
        optimizer.tell([2, 3], [1.0])
    with pytest.raises(ValueError, match="at least 1"):
        optimizer.ask(0)
    assert len(optimizer.ask()) == 31 and len(optimizer.ask()) == 0
    assert optimizer.result.nfev_failed == 1 and optimizer.ask().sample is None


def test_large_batches_are_the_same():
    x0 = np.linspace(-1, 1, 100_000)
    ask = deepzero.Optimizer(x0, options={"queries": 2}).ask()
    assert all(np.array_equal(row, probe.x()) for row, probe in zip(ask.points, ask.probes))
