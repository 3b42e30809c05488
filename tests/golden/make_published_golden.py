"""Steps of published zeroth-order methods, transcribed from their papers and released code with NumPy.

Usage: make_published_golden.py OUT_DIR

Writes OUT_DIR/published.expected.json: for each method its settings and the parameters after each of four steps on a
small problem. Nothing here is shared with the program but the numbers that are drawn: its counter-based generator is
written out below (Philox4x32-10 of Salmon et al. 2011, Box and Muller's normal numbers), with the place of each number as
the program documents it. Everything is float64.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

SEED = 5
N_STEPS = 4
# Purposes of the generator.
DIRECTION, SUBSPACE = 6, 18

# ---- The generator ----------------------------------------------------------------------------------------------


def philox(counter, key):
    counter, key = list(counter), list(key)
    for round_ in range(10):
        if round_:
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (b >> 32) ^ counter[1] ^ key[0],
            b & 0xFFFFFFFF,
            (a >> 32) ^ counter[3] ^ key[1],
            a & 0xFFFFFFFF,
        ]
    return counter


def block(purpose, step, lane, index):
    key = [SEED & 0xFFFFFFFF, SEED >> 32]
    return philox([index & 0xFFFFFFFF, (index >> 32) << 16 | purpose, step, lane], key)


def normal(purpose, step, lane, n):
    """The first n normal numbers of a sequence."""
    numbers = []
    for index in range((n + 1) // 2):
        words = block(purpose, step, lane, index)
        radius, angle = (((words[i] << 32 | words[i + 1]) >> 11) * 2.0**-53 for i in (0, 2))
        length = math.sqrt(-2.0 * math.log(1.0 - radius))
        numbers += [length * math.cos(2 * math.pi * angle), length * math.sin(2 * math.pi * angle)]
    return np.array(numbers[:n])


def signs(purpose, step, lane, n):
    """The first n random signs of a sequence: a bit each."""
    words = [word for index in range((n + 127) // 128) for word in block(purpose, step, lane, index)]
    return np.array([1.0 - 2.0 * (words[i // 32] >> i % 32 & 1) for i in range(n)])


# ---- The problem ------------------------------------------------------------------------------------------------

# A matrix, a convolution and a vector, one after the other in the parameters.
SHAPES = {"fc.weight": (5, 4), "conv.weight": (3, 2, 2, 2), "fc.bias": (4,)}
SIZES = [math.prod(shape) for shape in SHAPES.values()]
D = sum(SIZES)
K = np.arange(D)
SCALE = 1.0 + (K % 7) / 7.0
COUPLING = ((5 * K) % 11 - 5) / 11.0
CENTRE = ((2 * K) % 5 - 2) / 5.0
START = ((3 * K) % 13 - 6) / 13.0


def loss(theta):
    return (
        0.5 * np.sum(SCALE * (theta - CENTRE) ** 2) + 0.5 * np.sum(COUPLING * theta) ** 2 + np.sum(np.cos(theta))
    )


def tensors(vector):
    """The vector's tensors, those with several axes as matrices of as many rows as the first is long."""
    parts = np.split(vector, np.cumsum(SIZES)[:-1])
    return [p.reshape(s[0], -1) if len(s) > 1 else p for p, s in zip(parts, SHAPES.values())]


def joined(parts):
    return np.concatenate([part.reshape(-1) for part in parts])


def cut(drawn, sizes):
    return np.split(drawn, np.cumsum(sizes)[:-1])


def orthonormal(gaussian):
    """Q of the decomposition Q R whose R has a positive diagonal."""
    q, r = np.linalg.qr(gaussian)
    return q * np.sign(np.diag(r))


# ---- The methods ------------------------------------------------------------------------------------------------


def central(theta, z, eps):
    """MeZO's slope along z."""
    return (loss(theta + eps * z) - loss(theta - eps * z)) / (2 * eps)


def cocd(theta, step, state, block_size, eps, gamma, lr):
    """Refresh the next coordinates in order by central differences, decay the others, descend along the buffer."""
    buffer = gamma * state.setdefault("buffer", np.zeros(D))
    for i in range(block_size):
        coordinate = (step * block_size + i) % D
        buffer[coordinate] = central(theta, np.eye(D)[coordinate], eps)
    state["buffer"] = buffer
    return theta - lr * buffer


def fzoo(theta, step, state, n, eps, lr, ddof):
    """One-sided, random signs, divided by the standard deviation of the perturbed losses."""
    u = np.array([signs(DIRECTION, step, i, D) for i in range(n)])
    l0, losses = loss(theta), np.array([loss(theta + eps * row) for row in u])
    return theta - lr * (losses - l0) @ u / (n * np.std(losses, ddof=ddof))


def r_adazo(theta, step, state, n, mu, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    """Unit directions for every tensor; the second moment is fed by the first. No division by mu, which cancels but for
    eps, as the program documents for these directions."""
    gradient = np.zeros(D)
    for i in range(n):
        z = joined([part / np.linalg.norm(part) for part in tensors(normal(DIRECTION, step, i, D))])
        gradient += (loss(theta + mu * z) - loss(theta)) * z / n
    m = beta1 * state.get("m", np.zeros(D)) + (1 - beta1) * gradient
    v = beta2 * state.get("v", np.zeros(D)) + (1 - beta2) * m**2
    state.update(m=m, v=v)
    return theta - lr * m / (np.sqrt(v) + eps)


def sparse_mezo(theta, step, state, share, eps, lr):
    """Of the two weight tensors only what is at most as large as a threshold of the start is perturbed and moved."""
    if "h" not in state:
        state["h"] = []
        for part in tensors(theta)[:2]:
            sizes = np.sort(np.abs(part).reshape(-1))
            state["h"].append(sizes[len(sizes) - round(share * len(sizes)) - 1])
        state["h"].append(np.inf)
    mask = joined([np.abs(part) <= h for part, h in zip(tensors(theta), state["h"])])
    z = np.zeros(D)
    z[mask] = normal(DIRECTION, step, 0, int(mask.sum()))
    return theta - lr * central(theta, z, eps) * z


def lozo(theta, step, state, rank, interval, eps, lr):
    """u v^T for matrices, v drawn every so many steps."""
    if step % interval == 0:
        state["v"] = [
            normal(SUBSPACE, step // interval, i, part.shape[1] * rank).reshape(rank, -1).T if part.ndim > 1 else None
            for i, part in enumerate(tensors(theta))
        ]
    sizes = [part.shape[0] * rank if part.ndim > 1 else part.size for part in tensors(theta)]
    drawn = cut(normal(DIRECTION, step, 0, sum(sizes)), sizes)
    z = joined([d if v is None else d.reshape(rank, -1).T @ v.T for d, v in zip(drawn, state["v"])])
    return theta - lr * central(theta, z, eps) * z


def subzero(theta, step, state, rank, interval, eps, lr):
    """U Z V^T times sqrt(m n / r^2) for matrices."""
    if step % interval == 0:
        state["uv"] = []
        for i, part in enumerate(tensors(theta)):
            if part.ndim == 1:
                state["uv"].append(None)
                continue
            m, n = part.shape
            u, v = cut(normal(SUBSPACE, step // interval, i, rank * (m + n)), [rank * m, rank * n])
            state["uv"].append((orthonormal(u.reshape(rank, m).T), orthonormal(v.reshape(rank, n).T)))
    sizes = [rank * rank if part.ndim > 1 else part.size for part in tensors(theta)]
    drawn = cut(normal(DIRECTION, step, 0, sum(sizes)), sizes)
    parts = []
    for d, uv, part in zip(drawn, state["uv"], tensors(theta)):
        if uv is not None:
            d = uv[0] @ d.reshape(rank, rank).T @ uv[1].T * math.sqrt(part.size / rank**2)
        parts.append(d)
    z = joined(parts)
    return theta - lr * central(theta, z, eps) * z


def newton_schulz(g):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def zo_muon(theta, step, state, rank, interval, n, eps, lr, vector_lr):
    """P Psi for matrices; the mean of slope times Psi is orthogonalized and carried back by P."""
    if step % interval == 0:
        state["p"] = []
        for i, part in enumerate(tensors(theta)):
            r = min(rank, part.shape[0])
            drawn = normal(SUBSPACE, step // interval, i, r * part.shape[0]) if part.ndim > 1 else None
            state["p"].append(None if drawn is None else orthonormal(drawn.reshape(r, -1).T))
    sizes = [p.shape[1] * t.shape[1] if p is not None else t.size for p, t in zip(state["p"], tensors(theta))]
    l0, means = loss(theta), [0.0] * len(sizes)
    for i in range(n):
        psi = cut(normal(DIRECTION, step, i, sum(sizes)), sizes)
        psi = [d if p is None else d.reshape(p.shape[1], -1) for d, p in zip(psi, state["p"])]
        z = joined([d if p is None else p @ d for d, p in zip(psi, state["p"])])
        slope = (loss(theta + eps * z) - l0) / eps
        means = [mean + slope * d / n for mean, d in zip(means, psi)]
    moves = [vector_lr * g if p is None else lr * p @ newton_schulz(g) for g, p in zip(means, state["p"])]
    return theta - joined(moves)


def hizoo(theta, step, state, smooth, eps, lr):
    """The diagonal first, then the step that it scales."""
    h = state.get("h", np.ones(D))
    z = normal(DIRECTION, step, 0, D)
    l0, l1, l2 = loss(theta), loss(theta + eps * z / np.sqrt(h)), loss(theta - eps * z / np.sqrt(h))
    h = (1 - smooth) * h + abs(l1 + l2 - 2 * l0) * h * z * z * smooth / (2 * eps * eps)
    state["h"] = h
    return theta - lr * (l1 - l2) / (2 * eps) * z / np.sqrt(h)


def eggroll(theta, step, state, rank, n_pairs, sigma, lr):
    """Fitness is the negative loss; members come in pairs."""
    sizes = [rank * sum(part.shape) if part.ndim > 1 else part.size for part in tensors(theta)]
    members, fitness = [], []
    for i in range(n_pairs):
        parts = []
        for d, part in zip(cut(normal(DIRECTION, step, i, sum(sizes)), sizes), tensors(theta)):
            if part.ndim > 1:
                a, b = cut(d, [rank * part.shape[0], rank * part.shape[1]])
                d = a.reshape(rank, -1).T @ b.reshape(rank, -1) / math.sqrt(rank)
            parts.append(d)
        for sign in (1.0, -1.0):
            members.append(sign * sigma * joined(parts))
            fitness.append(-loss(theta + members[-1]))
    fitness, members = np.array(fitness), np.array(members)
    scores = (fitness - fitness.mean()) / np.sqrt(fitness.var() + 1e-5)
    return theta + lr * math.sqrt(len(scores)) * np.mean(scores[:, None] * members, axis=0)


def cma_es(mean, sigma, generations):
    """Hansen's tutorial (2016), with negative weights and the symmetric root of C in every generation."""
    n = len(mean)
    lam = 4 + int(3 * math.log(n))
    mu = lam // 2
    raw = math.log((lam + 1) / 2) - np.log(np.arange(1, lam + 1))
    mu_eff = raw[:mu].sum() ** 2 / (raw[:mu] ** 2).sum()
    mu_eff_minus = raw[mu:].sum() ** 2 / (raw[mu:] ** 2).sum()
    c_c = (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((n + 2) ** 2 + 2 * mu_eff / 2))
    c_sigma = (mu_eff + 2) / (n + mu_eff + 5)
    d_sigma = 1 + 2 * max(0, math.sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
    most = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_minus / (mu_eff + 2), (1 - c_1 - c_mu) / (n * c_mu))
    w = np.where(raw >= 0, raw / raw[raw > 0].sum(), most * raw / -raw[raw < 0].sum())
    expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    assert 1 / (10 * n * (c_1 + c_mu)) < 2, "the root would not be taken in every generation"
    p_sigma, p_c, cov = np.zeros(n), np.zeros(n), np.eye(n)
    path = []
    for g in range(generations):
        values, vectors = np.linalg.eigh(cov)
        root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
        z = np.array([normal(DIRECTION, g, k, n) for k in range(lam)])
        z = z[np.argsort([loss(mean + sigma * root @ row) for row in z], kind="stable")]
        y = z @ root
        y_w, z_w = w[:mu] @ y[:mu], w[:mu] @ z[:mu]
        mean = mean + sigma * y_w
        p_sigma = (1 - c_sigma) * p_sigma + math.sqrt(c_sigma * (2 - c_sigma) * mu_eff) * z_w
        length = np.linalg.norm(p_sigma)
        h = float(length / math.sqrt(1 - (1 - c_sigma) ** (2 * (g + 1))) < (1.4 + 2 / (n + 1)) * expected)
        p_c = (1 - c_c) * p_c + h * math.sqrt(c_c * (2 - c_c) * mu_eff) * y_w
        sigma = sigma * math.exp(c_sigma / d_sigma * (length / expected - 1))
        w_o = np.where(w >= 0, w, w * n / (z**2).sum(axis=1))
        cov = (
            (1 + c_1 * (1 - h) * c_c * (2 - c_c) - c_1 - c_mu * w.sum()) * cov
            + c_1 * np.outer(p_c, p_c)
            + c_mu * (w_o[:, None] * y).T @ y
        )
        path.append({"params": mean.tolist(), "sigma": sigma})
    return path


# ---- What is written --------------------------------------------------------------------------------------------

PLAIN = {"momentum": "0", "weight-decay": "0", "schedule": "constant", "warmup-epochs": "0", "sparsity": "0"}


def case(name, settings, step, **options):
    theta, state, path = START.copy(), {}, []
    for number in range(N_STEPS):
        theta = step(theta, number, state, **options)
        path.append(theta.tolist())
    return {"name": name, "settings": {**PLAIN, **settings}, "params": path}


CASES = [
    case(
        "CoCD",
        {"method": "cocd", "order": "parameters", "decay": "1", "difference": "central", "queries": "13", "mu": "0.5",
         "learning-rate": "0.05"},
        cocd, block_size=13, eps=0.5, gamma=1.0, lr=0.05,
    ),
    case(
        "CoCD, half forgotten",
        {"method": "cocd", "order": "parameters", "decay": "0.5", "difference": "central", "queries": "13", "mu": "0.5",
         "learning-rate": "0.05"},
        cocd, block_size=13, eps=0.5, gamma=0.5, lr=0.05,
    ),
    # The rate is that of the released code; the paper's is mu times as large.
    case(
        "FZOO, released code",
        {"method": "rge", "directions": "rademacher", "step-scale": "loss-spread", "deviation": "population",
         "queries": "8", "mu": "0.01", "learning-rate": "0.2"},
        fzoo, n=8, eps=0.01, lr=0.2, ddof=0,
    ),
    case(
        "FZOO, paper",
        {"method": "rge", "directions": "rademacher", "step-scale": "loss-spread", "deviation": "sample",
         "queries": "8", "mu": "0.01", "learning-rate": "0.2"},
        fzoo, n=8, eps=0.01, lr=0.2, ddof=1,
    ),
    case(
        "R-AdaZO",
        {"method": "rge", "directions": "per-tensor", "optimizer": "r-adazo", "momentum": "0.9", "queries": "2",
         "mu": "0.05", "learning-rate": "0.001"},
        r_adazo, n=2, mu=0.05, lr=0.001,
    ),
    case(
        "Sparse-MeZO",
        {"method": "sparse-mezo", "difference": "central", "large-weights": "0.6", "mu": "0.01", "learning-rate": "0.01"},
        sparse_mezo, share=0.6, eps=0.01, lr=0.01,
    ),
    case(
        "LOZO",
        {"method": "lozo", "difference": "central", "rank": "2", "subspace-steps": "3", "mu": "0.01",
         "learning-rate": "0.005"},
        lozo, rank=2, interval=3, eps=0.01, lr=0.005,
    ),
    case(
        "SubZero",
        {"method": "subzero", "difference": "central", "rank": "3", "subspace-steps": "3", "mu": "0.01",
         "learning-rate": "0.005"},
        subzero, rank=3, interval=3, eps=0.01, lr=0.005,
    ),
    case(
        "ZO-Muon",
        {"method": "zo-muon", "rank": "4", "subspace-steps": "3", "queries": "4", "mu": "0.1", "learning-rate": "0.05",
         "vector-scale": "0.2"},
        zo_muon, rank=4, interval=3, n=4, eps=0.1, lr=0.05, vector_lr=0.01,
    ),
    case(
        "HiZOO",
        {"method": "hizoo", "curvature-rate": "0.01", "mu": "0.1", "learning-rate": "0.005"},
        hizoo, smooth=0.01, eps=0.1, lr=0.005,
    ),
    case(
        "EGGROLL",
        {"method": "eggroll", "rank": "2", "queries": "6", "mu": "0.2", "learning-rate": "0.03"},
        eggroll, rank=2, n_pairs=6, sigma=0.2, lr=0.03,
    ),
]

if __name__ == "__main__":
    out = Path(sys.argv[1]) / "published.expected.json"
    answer = {"numpy": np.__version__, "seed": SEED, "start": START.tolist(), "start_loss": loss(START), "cases": CASES,
              "cma_es": {"sigma": 0.3, "generations": cma_es(START, 0.3, 8)}}
    out.write_text(json.dumps(answer, indent=None, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")
