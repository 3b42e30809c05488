"""What an optimizer itself costs per evaluation: ours beside scipy's and nevergrad's, on the same function, in turns.

The function costs next to nothing, so that what is measured is the optimizer, the call and, for commands, the pipe. Times are
those of the processor, of all threads and processes, which other programs on the machine change less than the clock's.

    pip install ./python -r benches/blackbox/requirements.txt && python benches/blackbox/overhead.py --deepzero PATH
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import deepzero

WORKER = """
import array, json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "init":
        answer = {"type": "ready", "max_batch": %d}
    elif message["type"] == "evaluate":
        answer = {"id": message["id"], "f": [x[0] * x[0] for x in message["x"]]}
    else:
        break
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
"""


def first(x):
    """It falls without end, so that nobody stops before the budget is spent."""
    return x[0] * x[0] + x[-1]


def firsts(points):
    return points[:, 0] ** 2 + points[:, -1]


def timed(run):
    """Microseconds per evaluation; `run` gives evaluations."""
    began = time.process_time()
    n = run()
    return (time.process_time() - began) / n * 1e6


def ours(d, n, fun=first, method="rge"):
    options = {"mu": 1e-3, "learning-rate": 1e-3}
    x0, vectorized = np.ones(d), fun is firsts
    return lambda: deepzero.minimize(fun, x0, maxfev=n, options=options, method=method, vectorized=vectorized).nfev


def ours_in_place(d, n):
    """Ask and tell with one vector that is moved in place, in pieces."""

    def run():
        optimizer = deepzero.Optimizer(np.ones(d), options={"mu": 1e-3, "learning-rate": 1e-3})
        vector, piece, told = np.ones(d), 1 << 16, 0
        while told < n:
            ask = optimizer.ask()
            values = []
            for probe in ask.probes:
                for start in range(0, d, piece):
                    stop = min(d, start + piece)
                    vector[start:stop] += probe.delta(start, stop)
                values.append(first(vector))
                vector[:] = optimizer.x
            optimizer.tell(ask.ids, values)
            vector[:] = optimizer.x
            told += len(ask)
        return told

    return run


def scipys(d, n, method):
    from scipy.optimize import minimize

    names = {"Nelder-Mead": {"maxfev": n, "xatol": 0, "fatol": 0}, "L-BFGS-B": {"maxfun": n, "ftol": 0, "gtol": 0}}
    return lambda: minimize(first, np.ones(d), method=method, options=names[method]).nfev


def nevergrads(d, n, name):
    import nevergrad

    def run():
        optimizer = nevergrad.optimizers.registry[name](nevergrad.p.Array(init=np.ones(d)), budget=n)
        optimizer.minimize(first)
        return n

    return run


def of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def command(program, d, n, batch):
    """Microseconds per evaluation of the program and its worker together, without what they take to start."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "worker.py").write_text(WORKER % batch)
        (folder / "x0.json").write_text(json.dumps([1.0] * d))
        line = f"{sys.executable} {folder}/worker.py"
        run = [program, "minimize", "--command", line, "--x0", folder / "x0.json", "--run", folder / "run"]
        times = []
        for budget in (1, n + 1):
            began = of_children()
            subprocess.run([*run, "--budget", str(budget)], check=True, capture_output=True)
            times.append(of_children() - began)
        return (times[1] - times[0]) / n * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--deepzero", required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    cases = [
        (10, [
            ("deepzero, callback", ours(10, 20_000)),
            ("deepzero, vectorized", ours(10, 20_000, firsts)),
            ("scipy, Nelder-Mead", scipys(10, 5_000, "Nelder-Mead")),
            ("scipy, L-BFGS-B", scipys(10, 5_000, "L-BFGS-B")),
            ("nevergrad, OnePlusOne", nevergrads(10, 1_000, "OnePlusOne")),
            ("nevergrad, CMA", nevergrads(10, 1_000, "CMA")),
        ]),
        (10_000, [
            ("deepzero, callback", ours(10_000, 3_300)),
            ("deepzero, vectorized", ours(10_000, 3_300, firsts)),
            ("deepzero, ask/tell in place", ours_in_place(10_000, 3_300)),
            ("deepzero, callback, cge", ours(10_000, 20_001, method="cge")),
            ("deepzero, vectorized, cge", ours(10_000, 20_001, firsts, "cge")),
            ("scipy, L-BFGS-B", scipys(10_000, 20_002, "L-BFGS-B")),
            ("nevergrad, OnePlusOne", nevergrads(10_000, 300, "OnePlusOne")),
        ]),
        (1_000_000, [
            ("deepzero, callback", ours(1_000_000, 66)),
            ("deepzero, vectorized", ours(1_000_000, 66, firsts)),
            ("deepzero, ask/tell in place", ours_in_place(1_000_000, 66)),
            ("nevergrad, OnePlusOne", nevergrads(1_000_000, 10, "OnePlusOne")),
        ]),
    ]
    for d, runs in cases:
        # In turns: each round of one follows one of the others.
        times = {name: [] for name, _ in runs}
        for _ in range(args.rounds):
            for name, run in runs:
                times[name].append(timed(run))
        for name, found in times.items():
            print(f"d = {d:>9,}  {name:<30} {statistics.median(found):>12.2f} us/evaluation", flush=True)
    for d, n, batch in [(10, 5_000, 1), (10, 20_000, 16), (10_000, 400, 1), (10_000, 400, 16)]:
        found = [command(args.deepzero, d, n, batch) for _ in range(args.rounds)]
        name = f"deepzero, jsonl, batches of {batch}"
        print(f"d = {d:>9,}  {name:<30} {statistics.median(found):>12.2f} us/evaluation", flush=True)


if __name__ == "__main__":
    main()
