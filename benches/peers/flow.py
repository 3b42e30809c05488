"""A step of the flow solver: ours beside that of tests/golden/make_flow_golden.py, which is NumPy with SciPy's direct solver,
and, where phiflow and jax are installed, PhiFlow's.

All run in turns, one process of each a round, so that a machine whose speed drifts treats them alike; the median over the
rounds counts. requirements-flow.txt has what this needs; `just bench-flow` installs it.

PhiFlow computes the same terms in f32: explicit diffusion, semi-Lagrangian advection, pressure by conjugate gradients to
1e-5 from the pressure of the step before, as its authors' corrector is trained; compiled by JAX for all cores, alone and
with BATCHES states at once, of which the fastest counts. Its boundary is not ours: there is no row of inflow inside.

    python flow.py [ROUNDS]
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("DEEPZERO", ROOT / "target/release/deepzero"))
REYNOLDS = 160e3
BATCHES = (8, 16, 64)


def golden():
    path = ROOT / "tests/golden/make_flow_golden.py"
    spec = importlib.util.spec_from_file_location("make_flow_golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numpy_us(flow, steps=100):
    state = flow.start()
    flow.step(state, REYNOLDS)
    started = time.perf_counter()
    for _ in range(steps):
        state = flow.step(state, REYNOLDS)
    return 1e6 * (time.perf_counter() - started) / steps


def phiflow_us(resolution, states):
    """Microseconds of a step of one of so many states."""
    from phi.jax import flow as phi

    edge = phi.ZERO_GRADIENT
    boundary = {"x-": edge, "x+": edge, "y-": phi.vec(x=0.0, y=1.0), "y+": edge}
    domain = {"x": resolution, "y": 2 * resolution, "bounds": phi.Box(x=100, y=200)}
    disc = phi.Obstacle(phi.Sphere(x=50, y=50, radius=10))
    # The factor makes the numbers JAX's, which alone are compiled.
    velocity = phi.StaggeredGrid(phi.vec(x=0.0, y=1.0), boundary, **domain) * phi.math.ones(phi.batch(states=states))

    def step(velocity, pressure):
        velocity = phi.diffuse.explicit(velocity, 1e4 / REYNOLDS, 1.0)
        velocity = phi.advect.semi_lagrangian(velocity, velocity, 1.0)
        solve = phi.Solve("CG", 1e-5, x0=pressure, max_iterations=2000)
        return phi.fluid.make_incompressible(velocity, disc, solve)

    step = phi.math.jit_compile(step)

    def run(velocity, pressure, steps):
        started = time.perf_counter()
        for _ in range(steps):
            velocity, pressure = step(velocity, pressure)
        pressure.values.numpy(pressure.values.shape)  # waits for what is still computed
        return velocity, pressure, time.perf_counter() - started

    velocity, pressure = step(velocity, None)
    velocity, pressure, _ = run(velocity, pressure, 20)
    steps = max(5, 60 // states)
    return 1e6 * run(velocity, pressure, steps)[2] / steps / states


def has_phiflow():
    return all(importlib.util.find_spec(name) for name in ("phi", "jax"))


def phiflow(resolution, states):
    command = [sys.executable, __file__, "phiflow", str(resolution), str(states)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    module = golden()
    batches = (1, *BATCHES) if has_phiflow() else ()
    print(
        "| cells across | NumPy, one state | ours, one state, f64 | f32 | 64 states, f32, a step of one | NumPy over ours "
        "| PhiFlow, one state | together | PhiFlow over ours |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for resolution in (32, 64):
        flow, theirs, ours = module.Flow(resolution), [], []
        phi = {states: [] for states in batches}
        for _ in range(rounds):
            theirs.append(numpy_us(flow))
            command = [PROGRAM, "bench", "flow", "--json", "--resolution", str(resolution), "--width", "1", "--unroll", "1"]
            ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            for states in batches:
                phi[states].append(phiflow(resolution, states))
        of = lambda name: statistics.median(run[name] for run in ours)
        peer, together = statistics.median(theirs), 1e6 / of("steps_per_s")
        ratios = f"{peer / of('alone_f64_us'):.1f}, {peer / of('alone_f32_us'):.1f}, {peer / together:.0f}"
        columns = [
            str(resolution), f"{peer:.0f} µs", f"{of('alone_f64_us'):.0f} µs", f"{of('alone_f32_us'):.0f} µs",
            f"{together:.1f} µs", ratios, "-", "-", "-",
        ]
        if batches:
            medians = {states: statistics.median(times) for states, times in phi.items()}
            best = min(BATCHES, key=medians.get)
            columns[-3:] = [
                f"{medians[1]:.0f} µs", f"{medians[best]:.0f} µs ({best} states)",
                f"{medians[1] / of('alone_f32_us'):.0f}, {medians[best] / together:.0f}",
            ]
        print("| " + " | ".join(columns) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["phiflow"]:
        print(phiflow_us(int(sys.argv[2]), int(sys.argv[3])))
    else:
        main()
