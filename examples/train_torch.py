# %% [markdown]
# Trains a small torch module through values of its loss only: no backward pass, no copies of the parameters. Needs
# `pip install ./python torch`. Run it as a script, or cell by cell.

# %%
import torch

import deepzero

torch.manual_seed(0)
x = torch.rand(256, 2) * 4 - 2
y = (x[:, :1] * x[:, 1:] > 0).float()  # the sign of a product: no linear model has it
module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
parameters = [parameter.data for parameter in module.parameters()]

# %% [markdown]
# The optimizer sees one flat vector. A probe says what to add to it, a piece at a time: each parameter tensor is moved in
# place, and moved back to what it was, bit for bit.

# %%
start = torch.cat([parameter.flatten() for parameter in parameters]).double().numpy()
optimizer = deepzero.Optimizer(start, method="rge", options={"queries": 8, "learning-rate": 0.03, "mu": 0.01})


def pieces():
    """Each parameter tensor, and which coordinates it has."""
    first = 0
    for parameter in parameters:
        yield parameter, first, first + parameter.numel()
        first += parameter.numel()


def load(vector):
    for parameter, first, last in pieces():
        parameter.copy_(torch.from_numpy(vector[first:last]).view_as(parameter))


def loss(rows):
    with torch.no_grad():
        return torch.nn.functional.binary_cross_entropy_with_logits(module(x[rows]), y[rows]).item()


def accuracy():
    with torch.no_grad():
        return ((module(x) > 0) == (y > 0)).float().mean().item()


# %% [markdown]
# Points of one step are compared with each other, so that they see the same mini-batch: `sample` says which.

# %%
print(f"before: accuracy {accuracy():.2f}")
for step in range(1200):
    ask = optimizer.ask()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(ask.sample))[:64]
    values = []
    for probe in ask.probes:
        before = [parameter.clone() for parameter in parameters]
        for parameter, first, last in pieces():
            parameter += torch.from_numpy(probe.delta(first, last)).view_as(parameter).float()
        values.append(loss(rows))
        for parameter, old in zip(parameters, before):
            parameter.copy_(old)
    optimizer.tell(ask.ids, values)
    load(optimizer.x)
    if step % 300 == 299:
        print(f"step {step + 1}: loss {loss(slice(None)):.3f}, accuracy {accuracy():.2f}")

assert accuracy() > 0.9
