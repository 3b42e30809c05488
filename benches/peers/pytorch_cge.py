"""The paper's scheme in plain PyTorch: what deepzero's speed is compared with.

Coordinate-wise gradient estimation (CGE) needs l(theta + mu e_j) - l(theta) on one batch for many
coordinates j. As in the paper, features are reused by block: the input of every block is kept at
theta, and a perturbation inside block k runs the network again from block k on. Everything is
float32 on the CPU, one perturbation at a time, batch norm in train mode.

Where PyTorch offers a choice, the faster one is taken: activations in place, no running statistics
where no one reads them, channels first or last (--layout), eager or through torch.compile (--compile;
it needs a C++ compiler). Images and labels are random; the time does not depend on them.

Every command prints one JSON object:

    python pytorch_cge.py cge  --model resnet20 --distribution lpr-paper --layout nhwc
    python pytorch_cge.py rge  --model resnet20 --queries 4
    python pytorch_cge.py fo   --model resnet20 --steps 5
    python pytorch_cge.py conv --batch-size 128
    python pytorch_cge.py certify --model resnet20 --denoiser --images 4
    python pytorch_cge.py check
"""

import argparse
import json
import math
import statistics
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MU = 5e-3
SPARSITY = 0.9
N_CLASSES = 10
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


# Networks. Both are chains of stages: the blocks between which features are kept. Parameter names
# are deepzero's, so a list of coordinates means the same on both sides.


class Chain(nn.Module):
    """A network that is one stage after another."""

    def stages(self):
        """The stages in order; they share their parameters with the network."""
        raise NotImplementedError

    def forward(self, x):
        return run(self.stages(), x)


class BasicBlock(nn.Module):
    """Residual block with an option-A shortcut: every second pixel, new channels zero."""

    def __init__(self, c_in, c_out, stride, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = norm(c_out)
        self.stride = stride
        # Left, right, top, bottom, then the channels before and after.
        self.padding = (0, 0, 0, 0, (c_out - c_in) // 2, (c_out - c_in) // 2)

    def forward(self, x):
        shortcut = x
        if self.stride > 1:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        x += shortcut
        return F.relu(x, inplace=True)


class ResNet20(Chain):
    """The CIFAR ResNet-20 of width 16. Its 12 stages are those of the paper's released code:
    first convolution, its batch norm and ReLU, nine residual blocks, classifier."""

    def __init__(self, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        self.layer1 = self._layer(16, 16, 1, norm)
        self.layer2 = self._layer(16, 32, 2, norm)
        self.layer3 = self._layer(32, 64, 2, norm)
        self.fc = nn.Linear(64, N_CLASSES)

    @staticmethod
    def _layer(c_in, c_out, stride, norm):
        first = BasicBlock(c_in, c_out, stride, norm)
        return nn.Sequential(first, *(BasicBlock(c_out, c_out, 1, norm) for _ in range(2)))

    def stages(self):
        blocks = [*self.layer1, *self.layer2, *self.layer3]
        return [self.conv1, nn.Sequential(self.bn1, nn.ReLU(inplace=True)), *blocks, classifier(self.fc)]


class Cnn(Chain):
    """The paper's depth-D CNN: D stages of convolution, batch norm, ReLU and max pooling, then the
    classifier."""

    def __init__(self, depth, norm, width=18):
        super().__init__()
        layers = []
        for block in range(depth):
            conv = nn.Conv2d(width if block else 3, width, 3, padding=1)
            layers += [conv, norm(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(width, N_CLASSES)

    def stages(self):
        blocks = [self.features[at : at + 4] for at in range(0, len(self.features), 4)]
        return [*blocks, classifier(self.fc)]


class DnCnn(nn.Module):
    """The denoiser DnCNN: what a chain of convolutions finds is taken off the image."""

    def __init__(self, depth, width):
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width, eps=1e-4), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1, bias=False))

    def forward(self, x):
        return x - self.layers(x)


def folded(module):
    """A module in eval mode with every batch norm made a part of the convolution before it."""
    for child in module.children():
        folded(child)
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        if isinstance(getattr(module, norm, None), nn.BatchNorm2d):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    if isinstance(module, nn.Sequential):
        for at in range(len(module) - 1):
            if isinstance(module[at + 1], nn.BatchNorm2d):
                module[at] = fuse_conv_bn_eval(module[at], module[at + 1])
                module[at + 1] = nn.Identity()
    return module


def classifier(fc):
    """Global average pooling and the linear layer `fc`."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)


MODELS = {"resnet20": ResNet20, "cnn-d3": partial(Cnn, 3)}


def compiled(module, args):
    """The module itself, or what torch.compile makes of it: the same parameters, fused operations."""
    return torch.compile(module) if args.compile else module


def build(model, layout, running_stats=False):
    """A freshly initialized network in train mode."""
    network = MODELS[model](partial(nn.BatchNorm2d, track_running_stats=running_stats))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return network.to(memory_format=LAYOUTS[layout]).train()


def random_batch(batch_size, layout):
    """Images (B, 3, 32, 32) and labels (B)."""
    images = torch.randn(batch_size, 3, 32, 32).to(memory_format=LAYOUTS[layout])
    return images, torch.randint(N_CLASSES, (batch_size,))


def run(stages, x):
    for stage in stages:
        x = stage(x)
    return x


# The estimators.


@torch.no_grad()
def cge(network, images, labels, coords, mu=MU, reuse=True, stages=None):
    """Forward differences (l(theta + mu e_j) - l(theta)) / mu at `coords`, pairs of a parameter's
    name and a flat index (row-major, whatever the layout). One query each and one for the base.
    `stages` are those of the network, or their compiled forms."""
    stages = stages or network.stages()
    params = dict(network.named_parameters())
    stage_of = {id(param): k for k, stage in enumerate(stages) for param in stage.parameters()}

    inputs = [images]
    for stage in stages:
        inputs.append(stage(inputs[-1]))
    base = F.cross_entropy(inputs[-1], labels)

    estimate = []
    for name, index in coords:
        param = params[name]
        first = stage_of[id(param)] if reuse else 0
        # A view of one number by its position, whatever the memory layout.
        entry = param[torch.unravel_index(torch.tensor(index), param.shape)]
        saved = entry.clone()
        entry += mu
        loss = F.cross_entropy(run(stages[first:], inputs[first]), labels)
        estimate.append((loss - base) / mu)
        # Restored, not subtracted: (w + mu) - mu is not w in floating point.
        entry.copy_(saved)
    return torch.stack(estimate)


@torch.no_grad()
def rge(network, images, labels, n_queries, mu=MU, forward=None):
    """Random gradient estimation over all parameters: the mean of (l(theta + mu u) - l(theta)) / mu
    times u, for standard normal u. One tensor for each parameter. `forward` is the network or its
    compiled form."""
    forward = network if forward is None else forward
    params = list(network.parameters())
    theta = [param.clone() for param in params]
    gradient = [torch.zeros_like(param) for param in params]
    base = F.cross_entropy(forward(images), labels)
    for _ in range(n_queries):
        direction = [torch.randn_like(param) for param in params]
        for param, center, u in zip(params, theta, direction):
            torch.add(center, u, alpha=mu, out=param)
        loss = F.cross_entropy(forward(images), labels)
        slope = ((loss - base) / (mu * n_queries)).item()
        for g, u in zip(gradient, direction):
            g.add_(u, alpha=slope)
    for param, center in zip(params, theta):
        param.copy_(center)
    return gradient


# Coordinates.


def product_tail(x):
    """P(|z1 z2| > x), x > 0, for independent standard normal z1, z2: the mean of
    P(|z2| > x / |z1|) = erfc(x / (|z1| sqrt 2)) over z1. The integrand is flat to all orders at both
    ends, so the trapezoidal rule converges fast."""
    z = torch.linspace(0, 9, 1801, dtype=torch.float64)[1:]
    density = 2 * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(density * torch.special.erfc(x / (z * math.sqrt(2))), z).item()


def lpr_paper_counts(network, sparsity=SPARSITY):
    """Weights kept in every convolution and linear layer by the paper's ZO-GraSP: with far fewer
    queries than parameters its scores are noise, and a layer keeps P(|z1 z2| > t sqrt(fan-in)) of
    its weights, with t set by the overall sparsity."""
    weights = {name: param for name, param in network.named_parameters() if is_weight(param)}
    n_total = sum(weight.numel() for weight in weights.values())

    def keep(t):
        fan_ins = {weight[0].numel() for weight in weights.values()}
        ratio = {fan_in: product_tail(t * math.sqrt(fan_in)) for fan_in in fan_ins}
        return {name: ratio[weight[0].numel()] * weight.numel() for name, weight in weights.items()}

    low, high = 1e-6, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        if sum(keep(middle).values()) > (1 - sparsity) * n_total:
            low = middle
        else:
            high = middle
    return {name: round(count) for name, count in keep(low).items()}


def is_weight(param):
    """Whether the sparsity applies: to weights, not to batch-norm parameters and biases."""
    return param.dim() > 1


def active_set(network, distribution):
    """Flat indices of the estimated coordinates of every parameter, in the network's order."""
    counts = lpr_paper_counts(network) if distribution == "lpr-paper" else None
    active = {}
    for name, param in network.named_parameters():
        if counts is None:
            n_active = param.numel() if is_weight(param) else 0
        else:
            n_active = counts.get(name, param.numel())
        active[name] = torch.randperm(param.numel())[:n_active].sort().values
    return active


def draw_coords(network, distribution, n_coords):
    """A systematic sample of the active set: in the network's order, every (N / n_coords)-th
    coordinate from a random start. The cost of a coordinate falls along that order, so a small
    sample gives the mean cost far better than independent draws would."""
    coords = [
        (name, index)
        for name, indices in active_set(network, distribution).items()
        for index in indices.tolist()
    ]
    if n_coords > len(coords):
        sys.exit(f"error: {n_coords} coordinates of {len(coords)}")
    start = torch.rand(()).item()
    return [coords[int((start + k) * len(coords) / n_coords)] for k in range(n_coords)]


def read_coords(path):
    """Coordinates from a JSON list of [parameter name, flat index]."""
    with open(path, encoding="utf-8") as file:
        return [(name, int(index)) for name, index in json.load(file)]


# The commands. Each returns what it measured; times are medians after a warm-up.


def median_s(work, repeats):
    """Median wall seconds of `work()`, after one call that is not timed."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bench_cge(args):
    network = build(args.model, args.layout)
    images, labels = random_batch(args.batch_size, args.layout)
    if args.coords_file:
        coords = read_coords(args.coords_file)
    else:
        coords = draw_coords(network, args.distribution, args.coords)
    # Modules of a block each: what a block fuses serves every query that runs through it.
    stages = [compiled(stage, args) for stage in network.stages()]
    reuse = not args.no_reuse
    wall_s = median_s(lambda: cge(network, images, labels, coords, reuse=reuse, stages=stages), args.repeats)
    with torch.no_grad():
        base_s = median_s(lambda: F.cross_entropy(network(images), labels), args.repeats)
    return {
        "distribution": "file" if args.coords_file else args.distribution,
        "n_coords": len(coords),
        "reuse": reuse,
        # With the base forward, whose part is base_us_per_image / n_coords.
        "us_per_query_image": 1e6 * wall_s / (len(coords) * args.batch_size),
        "base_us_per_image": 1e6 * base_s / args.batch_size,
    }


def bench_rge(args):
    network = build(args.model, args.layout)
    images, labels = random_batch(args.batch_size, args.layout)
    forward = compiled(network, args)
    wall_s = median_s(lambda: rge(network, images, labels, args.queries, forward=forward), args.repeats)
    return {
        "n_queries": args.queries,
        "us_per_query_image": 1e6 * wall_s / (args.queries * args.batch_size),
    }


def bench_fo(args):
    """Whole training steps with the paper's settings; here the running statistics are kept."""
    network = build(args.model, args.layout, running_stats=True)
    images, labels = random_batch(args.batch_size, args.layout)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    forward = compiled(network, args)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(forward(images), labels).backward()
        optimizer.step()

    return {"n_steps": args.steps, "ms_per_step": 1e3 * median_s(step, args.steps)}


@torch.no_grad()
def bench_conv(args):
    """Forward 3x3 convolutions with padding 1 at the three sizes of ResNet-20. A multiplication and
    an addition count two."""
    rates = []
    for channels, side in [(16, 32), (32, 16), (64, 8)]:
        memory_format = LAYOUTS[args.layout]
        x = torch.randn(args.batch_size, channels, side, side).to(memory_format=memory_format)
        weight = torch.randn(channels, channels, 3, 3).to(memory_format=memory_format)
        wall_s = median_s(lambda: F.conv2d(x, weight, padding=1), args.repeats)
        flop = 2 * args.batch_size * channels**2 * 9 * side**2
        rates.append({"shape": f"{channels}x{side}x{side}", "gflops": flop / wall_s / 1e9})
    return {"gflops": rates}


@torch.inference_mode()
def bench_certify(args):
    """Classes of noisy copies of images and their counts, as randomized smoothing certifies: noise, normalization,
    denoiser, classifier in eval mode with batch norms folded into convolutions, argmax."""
    memory_format = LAYOUTS[args.layout]
    network = build(args.model, args.layout, running_stats=True).eval()
    denoiser = DnCnn(8, 32).to(memory_format=memory_format).eval() if args.denoiser else nn.Identity()
    mean = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
    std = torch.tensor([0.2471, 0.2435, 0.2616]).view(1, 3, 1, 1)
    network, denoiser = folded(network), folded(denoiser)

    def classes(x):
        return network((denoiser(x) - mean) / std).argmax(1)

    forward = torch.compile(classes) if args.compile else classes
    images = torch.rand(args.images, 3, 32, 32)

    def certify():
        for image in images:
            for n in (args.n0, args.n):
                counts = torch.zeros(N_CLASSES, dtype=torch.long)
                for start in range(0, n, args.batch_size):
                    size = min(args.batch_size, n - start)
                    x = torch.empty(size, 3, 32, 32).contiguous(memory_format=memory_format)
                    x = x.normal_(std=0.25).add_(image)
                    counts += torch.bincount(forward(x), minlength=N_CLASSES)

    n_copies = args.images * (args.n0 + args.n)
    return {
        "denoiser": args.denoiser,
        "n_images": args.images,
        "us_per_copy": 1e6 * median_s(certify, args.repeats) / n_copies,
    }


def check(args):
    """Is the peer right? In float64: reuse against whole forwards, and, at a tiny mu, against
    back-propagation; then the keep ratios of ResNet-20 against those derived for the paper."""
    torch.set_default_dtype(torch.float64)
    report = {}
    failures = []

    def record(what, error, tolerance):
        report[what] = error
        if not error <= tolerance:
            failures.append(f"{what}: {error:.1e} is above {tolerance:.0e}")

    for model in MODELS:
        network = build(model, args.layout)
        images, labels = random_batch(4, args.layout)
        # One of every parameter, so that every stage and every kind of parameter is hit.
        coords = [
            (name, torch.randint(param.numel(), ()).item()) for name, param in network.named_parameters()
        ]
        before = [param.clone() for param in network.parameters()]
        reused = cge(network, images, labels, coords)
        whole = cge(network, images, labels, coords, reuse=False)
        # The same operations on the same numbers: equal but for threads that sum in another order.
        record(f"{model}: reuse against whole forwards", max_relative_error(reused, whole), 1e-9)

        F.cross_entropy(network(images), labels).backward()
        gradients = dict(network.named_parameters())
        exact = torch.stack([gradients[name].grad.flatten()[index] for name, index in coords])
        # At this mu hardly a ReLU switches, and rounding leaves 1e-6 or less.
        tiny_mu = cge(network, images, labels, coords, mu=1e-8)
        record(f"{model}: mu = 1e-8 against back-propagation", max_relative_error(tiny_mu, exact), 1e-4)

        moved = sum((a != b).sum().item() for a, b in zip(before, network.parameters()))
        record(f"{model}: parameters not restored", moved, 0)

    with torch.no_grad():
        for model in (build("resnet20", args.layout, running_stats=True), DnCnn(8, 32)):
            x = torch.rand(64, 3, 32, 32)
            model.train()(x)
            model.eval()
            plain = model(x)
            record(f"{type(model).__name__}: folded batch norms", max_relative_error(folded(model)(x), plain), 1e-9)

    network = build("resnet20", args.layout)
    counts = lpr_paper_counts(network)
    expected = [
        ("conv1", 47.1),
        ("layer1.1.conv2", 22.7),
        ("layer2.1.conv1", 13.9),
        ("layer3.2.conv2", 7.2),
        ("fc", 34.4),
    ]
    for layer, percent in expected:
        found = 100 * counts[f"{layer}.weight"] / network.get_parameter(f"{layer}.weight").numel()
        # Rounded to 0.1 in the table, to one weight in 432 here.
        record(f"resnet20: keep ratio of {layer}, percent off", abs(found - percent), 0.3)
    return {"errors": report, "failures": failures}


def max_relative_error(found, expected):
    """The largest error, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="bench", required=True)

    def command(name, work, help, repeats=3):
        sub = commands.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(work=work)
        sub.add_argument("--layout", choices=LAYOUTS, default="nchw", help="memory layout of tensors")
        sub.add_argument("--threads", type=int, default=2)
        sub.add_argument("--seed", type=int, default=0)
        if name != "check":
            sub.add_argument("--batch-size", type=int, default=128)
        if name in ("cge", "rge", "fo", "certify"):
            sub.add_argument("--model", choices=MODELS, default="resnet20")
            sub.add_argument("--compile", action="store_true", help="through torch.compile")
        if name in ("cge", "rge", "conv", "certify"):
            sub.add_argument("--repeats", type=int, default=repeats, help="timed runs; the median counts")
        return sub

    sub = command("cge", bench_cge, "forward differences, features reused by block")
    sub.add_argument("--coords", type=int, default=60, help="coordinates, a systematic sample")
    sub.add_argument(
        "--distribution",
        choices=["uniform", "lpr-paper"],
        default="uniform",
        help="sample from all convolution and linear weights, or from the active set at 90%% sparsity "
        "with the layer ratios of the paper's ZO-GraSP",
    )
    sub.add_argument("--coords-file", help="JSON list of [parameter name, flat index] to take")
    sub.add_argument("--no-reuse", action="store_true", help="whole forwards")
    sub = command("rge", bench_rge, "whole forwards along Gaussian directions")
    sub.add_argument("--queries", type=int, default=4)
    sub = command("fo", bench_fo, "whole SGD training steps")
    sub.add_argument("--steps", type=int, default=5, help="timed steps; the median counts")
    sub = command("certify", bench_certify, "classes of noisy copies of images")
    sub.set_defaults(batch_size=250)
    sub.add_argument("--denoiser", action="store_true", help="behind a DnCNN of 8 layers of 32 channels")
    sub.add_argument("--images", type=int, default=4)
    sub.add_argument("--n0", type=int, default=100)
    sub.add_argument("--n", type=int, default=1000)
    command("conv", bench_conv, "3x3 convolutions forward", repeats=30)
    command("check", check, "compare reuse with whole forwards and with back-propagation")
    return parser.parse_args()


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    asked = {key: getattr(args, key) for key in ("model", "batch_size", "repeats") if hasattr(args, key)}
    common = {"bench": args.bench, **asked, "layout": args.layout, "threads": args.threads}
    result = {**common, **args.work(args), "torch": torch.__version__}
    print(json.dumps(result, indent=2))
    if result.get("failures"):
        sys.exit(1)


if __name__ == "__main__":
    main()
