# %% [markdown]
# Fits the rates of a reaction that scipy integrates, from noisy concentrations. Needs `pip install ./python scipy`. Run it as a
# script, or cell by cell.

# %%
import numpy as np
from scipy.integrate import solve_ivp

import deepzero

times = np.linspace(0, 10, 40)
true = np.array([0.8, 0.3, 0.1])


def simulate(rates):
    """Concentrations of A, B and C over time in A -> B, B -> C, C -> B."""
    forward, on, back = rates

    def change(_, c):
        return [-forward * c[0], forward * c[0] - on * c[1] + back * c[2], on * c[1] - back * c[2]]

    solution = solve_ivp(change, (0, 10), [1.0, 0.0, 0.0], t_eval=times, rtol=1e-8)
    if not solution.success:
        raise deepzero.Failed(solution.message)
    return solution.y


measured = simulate(true) + 0.01 * np.random.default_rng(0).normal(size=(3, len(times)))

# %% [markdown]
# Rates are positive: the simulator sees their exponentials, and bounds keep it away from rates that make it slow.

# %%
result = deepzero.minimize(
    lambda logs: ((simulate(np.exp(logs)) - measured) ** 2).sum(),
    x0=[0.0, 0.0, 0.0],
    method="cge",
    bounds=[(-5, 3)] * 3,
    maxfev=1400,
    options={"mu": 1e-4, "learning-rate": 0.05},
)
print(f"sum of squares {result.fun:.5f} after {result.nfev} evaluations")
print("rates", np.exp(result.x).round(3), "instead of", true)

assert np.abs(np.exp(result.x) - true).max() < 0.05
