"""A step of the flow solver: ours beside that of tests/golden/make_flow_golden.py, which is NumPy with SciPy's direct solver.

Both run in turns, one process of ours a round, so that a machine whose speed drifts treats both alike; the median over the
rounds counts. Needs numpy, scipy, torch and safetensors (the last two because that file imports them).

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


def golden():
    path = ROOT / "tests/golden/make_flow_golden.py"
    spec = importlib.util.spec_from_file_location("make_flow_golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numpy_us(flow, steps=100):
    state = flow.start()
    flow.step(state, 160e3)
    started = time.perf_counter()
    for _ in range(steps):
        state = flow.step(state, 160e3)
    return 1e6 * (time.perf_counter() - started) / steps


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    module = golden()
    print("| cells across | NumPy, one state | ours, one state, f64 | f32 | 64 states, f32, a step of one | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for resolution in (32, 64):
        flow, theirs, ours = module.Flow(resolution), [], []
        for _ in range(rounds):
            theirs.append(numpy_us(flow))
            command = [PROGRAM, "bench", "flow", "--json", "--resolution", str(resolution), "--width", "1", "--unroll", "1"]
            ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        peer = statistics.median(theirs)
        of = lambda name: statistics.median(run[name] for run in ours)
        together = 1e6 / of("steps_per_s")
        ratios = f"{peer / of('alone_f64_us'):.1f}, {peer / of('alone_f32_us'):.1f}, {peer / together:.0f}"
        print(
            f"| {resolution} | {peer:.0f} µs | {of('alone_f64_us'):.0f} µs | {of('alone_f32_us'):.0f} µs "
            f"| {together:.1f} µs | {ratios} |"
        )


if __name__ == "__main__":
    main()
