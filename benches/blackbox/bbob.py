"""COCO's bbob functions: our methods beside CMA-ES and Nelder-Mead at equal budgets.

For every group of functions, the fraction of targets reached: targets are f_opt + 10^e for e = 2, 1, …, -8. One recipe for all
functions per method. Starts are uniform in [-4, 4]^d, the same for all.

    pip install ./python -r benches/blackbox/requirements.txt && python benches/blackbox/bbob.py
"""

import argparse
import os
import tempfile
import warnings

import cma
import cocoex
import numpy as np
from scipy.optimize import minimize

import deepzero

TARGETS = [10.0**e for e in range(2, -9, -1)]
GROUPS = {
    "separable (f1-f5)": range(1, 6),
    "moderate (f6-f9)": range(6, 10),
    "ill-conditioned (f10-f14)": range(10, 15),
    "multi-modal (f15-f19)": range(15, 20),
    "weak structure (f20-f24)": range(20, 25),
}


def descent(method, n_a_step, **options):
    def run(f, x0, budget):
        steps = max(2, budget // n_a_step(len(x0)))
        settings = {"mu": 1e-6, "learning-rate": 1.0, "momentum": 0.5, "schedule": "cosine", "steps": steps, **options}
        deepzero.minimize(f, x0, method=method, maxfev=budget, options=settings)

    return run


def search(f, x0, budget):
    deepzero.minimize(f, x0, method="pattern-search", maxfev=budget)


def cmaes(f, x0, budget):
    options = {"maxfevals": budget, "verbose": -9, "seed": 1, "tolfun": 0, "tolfunhist": 0, "tolx": 0}
    cma.fmin2(f, x0, 2.0, options)


def nelder_mead(f, x0, budget):
    minimize(f, x0, method="Nelder-Mead", options={"maxfev": budget, "maxiter": budget, "adaptive": True,
                                                   "xatol": 1e-12, "fatol": 1e-12})


METHODS = {
    "deepzero cge": descent("cge", lambda d: d + 1, difference="forward"),
    "deepzero cge, central": descent("cge", lambda d: 2 * d + 1),
    "deepzero cocd, 5 of d": descent("cocd", lambda d: 6, difference="forward", queries=5, decay=0.9),
    "deepzero rge, 8 directions": descent("rge", lambda d: 9, difference="forward", queries=8),
    "deepzero pattern-search": search,
    "CMA-ES (cma)": cmaes,
    "Nelder-Mead (scipy)": nelder_mead,
}


def optima_of(dim, instances):
    """The optimal value of every problem: the suite writes its point into a file."""
    optima, folder = {}, os.getcwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for problem in cocoex.Suite("bbob", f"instances:{instances}", f"dimensions:{dim}"):
            problem._best_parameter("print")
            optima[problem.id] = problem(np.loadtxt("._bbob_problem_best_parameter.txt"))
        os.chdir(folder)
    return optima


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dims", default="10,40")
    parser.add_argument("--instances", default="1-3")
    parser.add_argument("--budgets", default="50,500", help="evaluations over d")
    parser.add_argument("--methods", default="", help="only these, separated by semicolons")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [name for name in METHODS if not args.methods or name in args.methods.split(";")]
    for dim in map(int, args.dims.split(",")):
        optima = optima_of(dim, args.instances)
        for factor in map(int, args.budgets.split(",")):
            budget = factor * dim
            reached = {name: {group: [] for group in GROUPS} for name in names}
            for name in names:
                suite = cocoex.Suite("bbob", f"instances:{args.instances}", f"dimensions:{dim}")
                for problem in suite:
                    x0 = np.random.default_rng(problem.id_instance).uniform(-4, 4, dim)
                    try:
                        METHODS[name](problem, x0, budget)
                    except Exception as error:
                        print(f"{name} on {problem.id}: {error}")
                    assert problem.evaluations <= 1.1 * budget + dim, (name, problem.evaluations, budget)
                    gap = problem.best_observed_fvalue1 - optima[problem.id]
                    group = next(group for group, ids in GROUPS.items() if problem.id_function in ids)
                    reached[name][group].append(np.mean([gap <= target for target in TARGETS]))
            print(f"\nd = {dim}, {budget} evaluations\n")
            print("| | " + " | ".join(GROUPS) + " | all |")
            print("|---|" + "---:|" * (len(GROUPS) + 1))
            for name in names:
                means = [100 * np.mean(reached[name][group]) for group in GROUPS]
                every = 100 * np.mean(sum(reached[name].values(), []))
                print(f"| {name} | " + " | ".join(f"{mean:.0f}" for mean in means) + f" | {every:.0f} |", flush=True)


if __name__ == "__main__":
    main()
