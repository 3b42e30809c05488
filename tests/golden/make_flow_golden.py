"""Golden values for the 2-D wake-flow solver ("solver in the loop") in float64: sub-steps, rollouts, restriction, training loss.

usage: make_flow_golden.py OUT_DIR SEED RE_A RE_B      (RE_* are the configuration values Re_c; needs numpy, scipy, torch, safetensors)

Follows the released code of Um et al. (2020), as docs/METHODOLOGY.md describes it; section numbers below are of a longer description of that. Two own implementations, NumPy/SciPy (`Flow`) and
differentiable PyTorch (`TorchFlow`), must agree to 1e-11 before anything is written. For R = 16 and 32 it writes
flow_rR.safetensors (float64, C order, axes (y, x), y is the flow direction) and flow_rR.expected.json (scalars).

A state is a pair of face arrays NAME.v (2R+1, R) and NAME.u (2R, R+1), velocities in domain units per unit time (dt = 1, cell size 100/R).
B = 2 simulations (Re_c = RE_A, RE_B), n = 4 unrolled steps, variant V = consistent (default) or replicate (PhiFlow 1.x, section 3.4d).
  obstacle (2R, R)                      1 in obstacle cells, else 0
  start.*                               section 4 start; at R = 16 the trigger rows [R+10, R+20) are cut at the upper end of the domain
  init.*                                start + seeded smooth divergence-free field, 300 steps at RE_A, rounded to float32 values
  step.{diffuse,bc,advect}.*            state after each sub-step of one step from init at RE_A (before the projection the variants agree)
  step.p (2R, R)                        pressure of that step in cell units: A p = div, velocity -= differences of p (PhiFlow stores p * dx)
  step.V.*                              state after the projection
  roll.V.re{0,1}.n{1,2,10,50}.*         state after that many steps from init, no network, at Re_c = RE_A / RE_B
  rough.init.*, rough.{diffuse,...}     the same stages from white noise of amplitude 8 (look-ups 1-3 cells away, outside the domain) at Re_c = 8000
  vjp.cotangent.*, vjp.V.*              random w, and J^T w for the Jacobian J of one step at rough.init (tests the adjoint; v and u parts)
  fine.*, restricted.*                  a state on the 2R grid, shapes (4R+1, 2R), (4R, 2R+1), and its restriction T to R (one factor 2)
  conv{1,2,3}.{weight,bias}             section 6 network, PyTorch layout (out, in, ky, kx), Glorot-uniform; biases U(-.05, .05); float32 values
  train.frames.* (B, n+1, ..)           T of fine runs at consecutive steps, rounded to float32 values: s_0 and the targets
  train.net_input (B, 3, 2R, R)         normalised channels (v, u, Re_c) of the first network call, after P_s(s_0)
  train.net_output (B, 2, 2R, R)        raw network output there (before times (s_v, s_u))
  train.states.* (B, n, ..)             s_1 .. s_n, corrections added
  grad.conv{1,2,3}.{weight,bias}        exact gradient of the total loss of section 7 (sum over the batch, 1/n), consistent variant
"""
import json, os, sys
import numpy as np, scipy.sparse as sp, torch, torch.nn.functional as F
from scipy.sparse.linalg import splu
from safetensors.numpy import save_file

VARIANTS, WARMUP, ROLL, UNROLL, MU, RE_ROUGH = ('consistent', 'replicate'), 300, (1, 2, 10, 50), 4, 5e-3, 8000.0
S_RE = float(np.std([160000.0 * 2 ** i for i in range(6)]))  # section 5: over the six training values, also for other data

def f32(a): return np.asarray(a, np.float32).astype(np.float64)

class Flow:
    """NumPy solver on the grid of resolution R; a state is a tuple (v, u)."""

    def __init__(self, R):
        self.R, dx = R, 100 / R
        y, x = np.meshgrid((np.arange(2 * R) + .5) * dx, (np.arange(R) + .5) * dx, indexing='ij')
        self.obstacle = (y - 50) ** 2 + (x - 50) ** 2 <= 100
        free = np.pad(~self.obstacle, 1, constant_values=True)       # outside the domain counts as accessible
        self.mask_v = (free[1:, 1:-1] & free[:-1, 1:-1]).astype(float)  # 0 on faces that touch an obstacle cell
        self.mask_u = (free[1:-1, 1:] & free[1:-1, :-1]).astype(float)
        diag = -(self.mask_v[1:] + self.mask_v[:-1] + self.mask_u[:, 1:] + self.mask_u[:, :-1])
        diag[self.obstacle] = -1                                     # decoupled rows, right side 0 => p = 0
        east = np.zeros_like(diag); east[:, :-1] = self.mask_u[:, 1:-1]
        north, east = self.mask_v[1:-1].ravel(), east.ravel()[:-1]
        self.A = sp.diags([diag.ravel(), north, north, east, east], [0, R, -R, 1, -1], format='csc')
        self.lu = splu(self.A)

    def alpha(self, re): return self.R ** 2 / re                      # section 2, dt = 1

    def start(self):
        R = self.R; v, u = np.ones((2 * R + 1, R)), np.zeros((2 * R, R + 1))
        u[R + 10:R + 20, R // 2 - 2:R // 2 + 2] = 1
        return v, u

    def diffuse(self, s, alpha):                                      # 3.1
        def lap(c):
            q = np.pad(c, 1, mode='edge')
            return q[2:, 1:-1] + q[:-2, 1:-1] + q[1:-1, 2:] + q[1:-1, :-2] - 4 * c
        return tuple(c + alpha * lap(c) for c in s)

    def bc(self, s):                                                  # 3.2
        v = s[0].copy(); v[:2] = 1; v[:, 0] = 1; v[:, -1] = 1
        return v, s[1]

    def advect(self, s):                                              # 3.3
        v, u = s; k = self.R / 100                                    # cells per step and unit velocity
        def mean4(c): return (c[1:, 1:] + c[1:, :-1] + c[:-1, 1:] + c[:-1, :-1]) / 4
        u_at_v, v_at_u = mean4(np.pad(u, ((1, 1), (0, 0)), mode='edge')), mean4(np.pad(v, ((0, 0), (1, 1)), mode='edge'))
        def look_up(c, vy, vx):                                       # c at (row, column) index minus displacement, indices clamped
            j, i = np.meshgrid(np.arange(c.shape[0]), np.arange(c.shape[1]), indexing='ij')
            y, x = j - k * vy, i - k * vx; fy, fx = y - np.floor(y), x - np.floor(x)
            j0, j1 = (np.clip(np.floor(y).astype(int) + d, 0, c.shape[0] - 1) for d in (0, 1))
            i0, i1 = (np.clip(np.floor(x).astype(int) + d, 0, c.shape[1] - 1) for d in (0, 1))
            return (1 - fy) * ((1 - fx) * c[j0, i0] + fx * c[j0, i1]) + fy * ((1 - fx) * c[j1, i0] + fx * c[j1, i1])
        return look_up(v, v, u_at_v), look_up(u, v_at_u, u)

    def divergence(self, s): return np.diff(s[0], axis=0) + np.diff(s[1], axis=1)   # cell units

    def project(self, s, variant):                                    # 3.4; returns the state and p
        v, u = s[0] * self.mask_v, s[1] * self.mask_u
        p = self.lu.solve(self.divergence((v, u)).ravel().astype(float)).reshape(2 * self.R, self.R).astype(v.dtype)
        q = np.pad(p, 1, mode='constant' if variant == 'consistent' else 'edge')    # ghost pressure 0, or gradient 0 on boundary faces
        return (v - self.mask_v * np.diff(q[:, 1:-1], axis=0), u - self.mask_u * np.diff(q[1:-1], axis=1)), p

    def step(self, s, re, variant='consistent', out=None):
        d = self.diffuse(s, self.alpha(re)); b = self.bc(d); a = self.advect(b); s, p = self.project(a, variant)
        if out is not None: out.update({'diffuse': d, 'bc': b, 'advect': a, 'p': p, variant: s})
        return s

def restrict(s):                                                      # T of section 4, factor 2
    v, u = s[0][::2], s[1][:, ::2]
    return (v[:, ::2] + v[:, 1::2]) / 2, (u[::2] + u[1::2]) / 2

def smooth_field(R, rng_seed):
    """Exactly divergence-free (v, u) from a stream function of 5 x 4 sine modes; the same physical field for every R."""
    g = np.random.default_rng(rng_seed); y, x = np.meshgrid(np.linspace(0, 2, 2 * R + 1), np.linspace(0, 1, R + 1), indexing='ij'); psi = 0
    for a in range(1, 6):
        for b in range(1, 5): psi = psi + g.normal() / (a + b) * np.sin(np.pi * a * y / 2) * np.sin(np.pi * b * x)
    return np.diff(psi, axis=1) * R / 10, -np.diff(psi, axis=0) * R / 10

def warmed_up(flow, re, seed, steps):
    s = tuple(a + b for a, b in zip(flow.start(), smooth_field(flow.R, seed)))
    for _ in range(steps): s = flow.step(s, re)
    return s

class Solve(torch.autograd.Function):
    """p = A^-1 div for a batch (B, 2R, R); A is symmetric, so the adjoint is the same solve."""
    @staticmethod
    def forward(ctx, div, lu): ctx.lu = lu; return Solve.solve(div, lu)
    @staticmethod
    def backward(ctx, g): return Solve.solve(g, ctx.lu), None
    @staticmethod
    def solve(b, lu): return torch.from_numpy(np.ascontiguousarray(lu.solve(b.detach().reshape(len(b), -1).numpy().T.copy()).T)).view(b.shape)

class TorchFlow:
    """The same step, differentiable and batched: v (B, 2R+1, R), u (B, 2R, R+1), re (B)."""

    def __init__(self, flow):
        self.R, self.lu = flow.R, flow.lu; self.mask = torch.from_numpy(flow.mask_v), torch.from_numpy(flow.mask_u)
        self.in_bc = torch.zeros(2 * self.R + 1, self.R, dtype=torch.bool); self.in_bc[:2] = True; self.in_bc[:, [0, -1]] = True

    @staticmethod
    def pad(c, w, mode='replicate'): return F.pad(c[:, None], w, mode=mode)[:, 0]  # w = (x low, x high, y low, y high)

    def look_up(self, c, vy, vx):
        B, H, W = c.shape; k = self.R / 100
        y = torch.arange(H, dtype=c.dtype)[:, None] - k * vy; x = torch.arange(W, dtype=c.dtype) - k * vx; res = 0
        for dy in (0, 1):
            for dx in (0, 1):
                j, i = torch.floor(y).detach() + dy, torch.floor(x).detach() + dx
                idx = (j.clamp(0, H - 1) * W + i.clamp(0, W - 1)).long().view(B, -1)
                res = res + (1 - (y - j).abs()) * (1 - (x - i).abs()) * c.reshape(B, -1).gather(1, idx).view(B, H, W)
        return res

    def step(self, v, u, re, variant='consistent'):
        al = (self.R ** 2 / re)[:, None, None]; five = torch.tensor([[0., 1, 0], [1, -4, 1], [0, 1, 0]], dtype=v.dtype)[None, None]
        v, u = (c + al * F.conv2d(self.pad(c, (1, 1, 1, 1))[:, None], five)[:, 0] for c in (v, u))
        v = torch.where(self.in_bc, torch.ones_like(v), v)
        def mean4(c): return F.avg_pool2d(c[:, None], 2, 1)[:, 0]
        v, u = self.look_up(v, v, mean4(self.pad(u, (0, 0, 1, 1)))), self.look_up(u, mean4(self.pad(v, (1, 1, 0, 0))), u)
        v, u = v * self.mask[0], u * self.mask[1]
        p = Solve.apply(v.diff(dim=1) + u.diff(dim=2), self.lu)
        q = self.pad(p, (1, 1, 1, 1), 'constant' if variant == 'consistent' else 'replicate')
        return v - self.mask[0] * q[:, :, 1:-1].diff(dim=1), u - self.mask[1] * q[:, 1:-1].diff(dim=2)

def network(w, x):                                                    # section 6
    for k in (1, 2, 3): x = F.conv2d(x, w[f'conv{k}.weight'], w[f'conv{k}.bias'], padding=2); x = F.relu(x) if k < 3 else x
    return x

def init_network(seed):
    g, w = np.random.default_rng(seed), {}
    for k, (i, o) in enumerate(((3, 32), (32, 64), (64, 2)), 1):
        lim = np.sqrt(6 / (25 * (i + o)))
        w[f'conv{k}.weight'] = torch.from_numpy(f32(g.uniform(-lim, lim, (o, i, 5, 5)))); w[f'conv{k}.bias'] = torch.from_numpy(f32(g.uniform(-.05, .05, o)))
    assert sum(p.numel() for p in w.values()) == 56898
    return w

def train_loss(tf, w, fv, fu, re, std, out=None):
    """Sections 5 and 7. fv (B, n+1, 2R+1, R), fu (B, n+1, 2R, R+1); returns (total, per-step losses)."""
    v, u, losses = fv[:, 0], fu[:, 0], []
    for i in range(1, fv.shape[1]):
        v, u = tf.step(v, u, re)
        x = torch.stack([v[:, :-1] / std[0], u[:, :, :-1] / std[1], (re[:, None, None] / S_RE).expand(-1, 2 * tf.R, tf.R)], 1)
        c = network(w, x); v, u = v + F.pad(c[:, 0] * std[0], (0, 0, 0, 1)), u + F.pad(c[:, 1] * std[1], (0, 1, 0, 0))
        losses.append((((fv[:, i] - v) / std[0]) ** 2).sum() / 2 + (((fu[:, i] - u) / std[1]) ** 2).sum() / 2)
        if out is not None: out.append((x.detach(), c.detach(), v.detach(), u.detach()))
    return sum(losses) / len(losses), losses

def pick(w, n, seed):
    """n coordinates [name, flat index], spread evenly over the six tensors."""
    g, c, names, j = np.random.default_rng(seed), set(), list(w), 0
    while len(c) < n: k = j % len(names); c.add((k, int(g.integers(w[names[k]].numel())))); j += 1
    return [(names[k], i) for k, i in sorted(c)]

def make(out, R, seed, res):
    flow, fine, T = Flow(R), Flow(2 * R), {}; tf = TorchFlow(flow); g = np.random.default_rng(seed + 100 * R)
    def put(name, s): T[name + '.v'], T[name + '.u'] = s
    T['obstacle'] = flow.obstacle.astype(float); put('start', flow.start()); init = tuple(f32(c) for c in warmed_up(flow, res[0], seed, WARMUP)); put('init', init)
    rough = tuple(f32(g.uniform(-8, 8, c.shape)) for c in init); put('rough.init', rough); J = {'R': R, 'n_obstacle': int(flow.obstacle.sum())}
    for pre, s, re in (('step', init, res[0]), ('rough', rough, RE_ROUGH)):
        for V in VARIANTS:
            st = {}; flow.step(s, re, V, st); T[pre + '.p'] = st.pop('p')
            for k, x in st.items(): put(f'{pre}.{k}', x)
            d = np.abs(flow.divergence(st[V]))[~flow.obstacle]
            J[f'{pre}.{V}.divergence'] = {'max': d.max(), 'l2': float(np.sqrt((d ** 2).sum()))}
            tv, tu = (x[0].numpy() for x in tf.step(*(torch.from_numpy(c)[None] for c in s), torch.tensor([re], dtype=torch.float64), V))
            assert max(np.abs(tv - st[V][0]).max(), np.abs(tu - st[V][1]).max()) < 1e-11
    for V in VARIANTS:
        for r, re in enumerate(res):
            s = init
            for i in range(1, ROLL[-1] + 1):
                s = flow.step(s, re, V)
                if i in ROLL: put(f'roll.{V}.re{r}.n{i}', s)
    cot = tuple(g.normal(size=c.shape) for c in init); put('vjp.cotangent', cot)
    for V in VARIANTS:
        x = [torch.from_numpy(c)[None].requires_grad_() for c in rough]; y = tf.step(*x, torch.tensor([RE_ROUGH], dtype=torch.float64), V)
        put('vjp.' + V, [a[0].numpy() for a in torch.autograd.grad(y, x, [torch.from_numpy(c)[None] for c in cot])])
    # training: fine runs, restricted; the network; loss, gradient, forward differences
    frames = []
    for b, re in enumerate(res):
        s = tuple(f32(c) for c in warmed_up(fine, re, seed + 1 + b, WARMUP)); frames.append([restrict(s)])
        if b == 0: put('fine', s); put('restricted', restrict(s))
        for _ in range(UNROLL): s = fine.step(s, re); frames[b].append(restrict(s))
    fv, fu = (f32([[fr[c] for fr in f] for f in frames]) for c in (0, 1)); put('train.frames', (fv, fu))
    # section 5: std of |.| over the arrays zero-padded to (2R+1, R+1)
    std = [float(np.std(np.abs(np.pad(fv, ((0, 0), (0, 0), (0, 0), (0, 1)))))), float(np.std(np.abs(np.pad(fu, ((0, 0), (0, 0), (0, 1), (0, 0))))))]
    w = init_network(seed); tfv, tfu, re = torch.from_numpy(fv), torch.from_numpy(fu), torch.tensor(res, dtype=torch.float64); calls = []
    for p in w.values(): p.requires_grad_()
    loss, per_step = train_loss(tf, w, tfv, tfu, re, std, calls); loss.backward(); base = loss.item()
    T.update({k: p.detach().numpy() for k, p in w.items()}); T.update({'grad.' + k: p.grad.numpy() for k, p in w.items()})
    T['train.net_input'], T['train.net_output'] = calls[0][0].numpy(), calls[0][1].numpy()
    put('train.states', [torch.stack([c[k] for c in calls], 1).numpy() for k in (2, 3)])
    coords = pick(w, 40, seed + 7)
    with torch.no_grad():
        def at(k, i, d):
            p = w[k].view(-1); old = p[i].item(); p[i] = old + d; r = train_loss(tf, w, tfv, tfu, re, std)[0].item(); p[i] = old; return r
        cge = [(at(k, i, MU) - base) / MU for k, i in coords]
        central = [[k, i, (at(k, i, 1e-6) - at(k, i, -1e-6)) / 2e-6, w[k].grad.view(-1)[i].item()] for k, i in coords[::8]]
    for k, i, c, b in central: assert abs(c - b) <= 1e-5 * max(abs(b), 1e-2 * max(abs(x[3]) for x in central)), (k, i, c, b)
    J = {'source': 'own NumPy/SciPy and PyTorch implementations, float64, direct pressure solve', 'seed': seed, **J, 'dt': 1.0, 're_c': res, 'alpha': [flow.alpha(r) for r in res],
         're_c_rough': RE_ROUGH, 'alpha_rough': flow.alpha(RE_ROUGH), 'warmup_steps': WARMUP, 'roll_steps': ROLL, 'n': UNROLL, 'batch': len(res), 'std_v': std[0], 'std_u': std[1], 'std_re': S_RE,
         'loss': base, 'loss_steps': [x.item() for x in per_step], 'mu': MU, 'coords': coords, 'cge_forward_difference': cge, 'backprop': [w[k].grad.view(-1)[i].item() for k, i in coords],
         'gradient_norm': float(np.sqrt(sum((p.grad ** 2).sum().item() for p in w.values()))), 'central_difference_check_h1e-6': central}
    assert all(np.isfinite(a).all() for a in T.values())
    save_file({k: np.ascontiguousarray(a, np.float64) for k, a in T.items()}, f'{out}/flow_r{R}.safetensors')
    json.dump(J, open(f'{out}/flow_r{R}.expected.json', 'w'), indent=0)
    print(out, R, 'loss', base, J['loss_steps'], 'std', std, 'cos(cge, bp)', np.dot(cge, J['backprop']) / np.linalg.norm(cge) / np.linalg.norm(J['backprop']),
          'central', max(abs(c - b) / abs(b) for _, _, c, b in central), {k: x['max'] for k, x in J.items() if k.endswith('divergence')}, 'max |init|', [np.abs(c).max() for c in init])

if __name__ == '__main__':
    os.makedirs(sys.argv[1], exist_ok=True); torch.set_num_threads(2)
    for R in (16, 32): make(sys.argv[1], R, int(sys.argv[2]), [float(sys.argv[3]), float(sys.argv[4])])
