"""PyTorch and deepzero side by side on this machine, as a Markdown table.

Every comparison runs the peer (pytorch_cge.py, in both memory layouts, and through torch.compile where it
has networks) and `deepzero bench` in turns, so that a machine whose speed drifts treats all alike: peer
NCHW, ours, peer NHWC, ours, peer compiled, ours, and so on for --rounds rounds. Every run is a process
of its own, and the median over the runs counts.
A run that fails leaves a gap in the table and its error on stderr, and the exit status is 1.

    python compare.py                               everything, some minutes
    python compare.py --only cge-uniform conv       some rows
    python compare.py --json > peers.json           the table on stderr, all numbers as JSON on stdout
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEER = Path(__file__).resolve().with_name("pytorch_cge.py")
PEERS = {
    "PyTorch NCHW": ["--layout", "nchw"],
    "PyTorch NHWC": ["--layout", "nhwc"],
    "PyTorch compiled": ["--layout", "nhwc", "--compile"],
}
SIDES = [*PEERS, "deepzero"]
# One round: deepzero runs right after the peer it is compared with.
TURNS = [turn for peer in PEERS for turn in (peer, "deepzero")]
# Above this load average something else is running. PyTorch's threads wait for each other by spinning,
# so that it suffers more than its share.
BUSY_LOAD = 0.5


@dataclass
class Row:
    """A line of the table."""

    label: str
    unit: str
    # The number in the JSON of each side.
    of_peer: Callable
    of_ours: Callable
    samples: dict = field(default_factory=lambda: {side: [] for side in SIDES})

    def median(self, side):
        return statistics.median(self.samples[side]) if self.samples[side] else None

    @property
    def speedup(self):
        """How many times as fast as PyTorch at its best deepzero is."""
        ours = self.median("deepzero")
        peers = [value for side in PEERS if (value := self.median(side)) is not None]
        if ours is None or not peers:
            return None
        return ours / max(peers) if self.unit == "GFLOP/s" else min(peers) / ours


@dataclass
class Comparison:
    """One command for each side, and the rows that are read from what they print."""

    peer: str
    ours: str
    rows: list

    def has(self, side):
        """There is nothing to compile in a single operation."""
        return side != "PyTorch compiled" or not self.peer.startswith("conv")


def comparisons(n_coords):
    """All comparisons by name, in the order of the table. The CGE times leave out the base forward on
    both sides: a real step has thousands of probes for one. So that what ours spends once per estimate is
    spread likewise, it gets as many coordinates as a step has where that is fast enough; a probe of
    PyTorch's costs the same, however many there are."""
    us = "µs / (query x image)"

    def cge(label, model, batch_size, distribution, ours=n_coords):
        command = f"cge --model {model} --batch-size {batch_size} --distribution {distribution} --coords"
        row = Row(
            f"CGE, {label}, batch {batch_size}",
            us,
            lambda peer: peer["us_per_query_image"] - peer["base_us_per_image"] / peer["n_coords"],
            lambda ours: 1e6 * ours["differences_s"] / (ours["n_coords"] * ours["batch_size"]),
        )
        options = "--evaluator difference --error-coords 0"
        return Comparison(f"{command} {n_coords}", f"{command} {ours} {options}", [row])

    convs = [
        Row(
            f"3x3 convolution forward, {shape}, batch 128",
            "GFLOP/s",
            lambda peer, position=position: peer["gflops"][position]["gflops"],
            lambda ours, position=position: ours["layers"][position]["forward_gflops"],
        )
        for position, shape in enumerate(["16 x 32x32", "32 x 16x16", "64 x 8x8"])
    ]
    rge = "rge --model resnet20 --batch-size 128 --queries 16"
    rge_row = Row(
        "RGE, ResNet-20, batch 128, whole forwards",
        us,
        lambda peer: peer["us_per_query_image"],
        lambda ours: ours["us_per_query_image"],
    )
    fo = "fo --model resnet20 --batch-size 128 --steps 10"
    fo_row = Row(
        "Training step by back-propagation, ResNet-20, batch 128",
        "ms",
        lambda peer: peer["ms_per_step"],
        lambda ours: 1e3 * ours["step_s"],
    )
    copies = "--images 4 --n0 100 --n 1000"

    def certify(label, peer, ours):
        row = Row(
            f"Certification, {label}",
            "µs / (image x copy)",
            lambda peer: peer["us_per_copy"],
            lambda ours: ours["us_per_copy"],
        )
        return Comparison(f"certify {copies} {peer}", f"certify {copies} {ours}", [row])

    return {
        "cge-uniform": cge("ResNet-20, uniform", "resnet20", 128, "uniform"),
        "cge-lpr": cge("ResNet-20, 90 %, layer ratios of the paper", "resnet20", 128, "lpr-paper"),
        "cge-cnn": cge("CNN of depth 3, uniform", "cnn-d3", 256, "uniform", 6400),
        "conv": Comparison("conv --batch-size 128", "conv --batch-size 128", convs),
        "rge": Comparison(rge, rge, [rge_row]),
        "fo": Comparison(fo, fo, [fo_row]),
        "certify": certify("ResNet-20", "", "--denoiser none"),
        "certify-denoised": certify("ResNet-20 behind DnCNN 8 x 32", "--denoiser", "--denoiser 8x32"),
    }


def command_line(side, comparison, args):
    """What to run for one side, as a list of arguments."""
    if side == "deepzero":
        command = [args.deepzero, "bench", *comparison.ours.split(), "--json"]
    else:
        command = [sys.executable, str(PEER), *comparison.peer.split(), *PEERS[side]]
    return [*command, "--threads", str(args.threads)]


class RunError(Exception):
    """A command failed or printed something else than expected."""


def run(command):
    """Runs a command and parses its standard output as JSON."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    except OSError as error:
        raise RunError(str(error)) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"exit status {error.returncode}: {last}") from error
    except json.JSONDecodeError as error:
        raise RunError(f"no JSON on standard output: {error}") from error


def read_number(read, output):
    """What `read` finds in the parsed output of a command."""
    try:
        return float(read(output))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RunError(f"the output lacks a number: {error!r}") from error


def measure(comparison, args):
    """Fills the samples of the comparison's rows. A side that fails once is not run again."""
    failures = {}
    for _ in range(args.rounds):
        for side in TURNS:
            if side in failures or not comparison.has(side):
                continue
            command = command_line(side, comparison, args)
            print(f"  {shlex.join(command)}", file=sys.stderr, flush=True)
            try:
                result = run(command)
                for row in comparison.rows:
                    read = row.of_ours if side == "deepzero" else row.of_peer
                    row.samples[side].append(read_number(read, result))
            except RunError as error:
                failures[side] = str(error)
                print(f"error: {side}: {error}", file=sys.stderr)
    return failures


def cpu_model():
    """The processor's name, as Linux tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def output_of(command):
    """The first line a command prints, or None where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip().partition("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(args):
    """What a reader needs to judge the numbers, or to take them again."""
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "threads": args.threads,
        "rounds": args.rounds,
        "torch": output_of([sys.executable, "-c", "import torch; print(torch.__version__)"]),
        "deepzero": output_of([args.deepzero, "--version"]),
    }


def number(value):
    """Three digits, or a dash for a gap."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(about, rows):
    """The table and the line above it."""
    ours, torch = about["deepzero"] or "deepzero (did not run)", about["torch"] or "did not run"
    lines = [
        f"{about['date']}, {about['cpu']}, {about['cores']} cores, {about['threads']} threads, "
        f"load before {about['load_before']:.1f}; "
        f"{ours}, PyTorch {torch}; medians over rounds: {about['rounds']}.",
        "",
        f"| | unit | {' | '.join(SIDES)} | times as fast as the best PyTorch |",
        f"|---|---|{'---:|' * len(SIDES)}---:|",
    ]
    for row in rows:
        values = [number(row.median(side)) for side in SIDES] + [number(row.speedup)]
        lines.append(f"| {row.label} | {row.unit} | {' | '.join(values)} |")
    return "\n".join(lines)


def as_json(name, comparison, failures, args):
    """Everything about one comparison."""
    rows = [
        {
            "label": row.label,
            "unit": row.unit,
            "median": {side: row.median(side) for side in SIDES},
            "speedup": row.speedup,
            "samples": row.samples,
        }
        for row in comparison.rows
    ]
    commands = {side: shlex.join(command_line(side, comparison, args)) for side in SIDES if comparison.has(side)}
    return {"name": name, "rows": rows, "commands": commands, "failures": failures}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(comparisons(0))
    some = f"some of: {', '.join(names)}"
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help=some)
    parser.add_argument("--coords", type=int, default=120, help="coordinates of a CGE run, but for ours of the CNN (default: 120)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of alternating runs (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side (default: 2)")
    binary = ROOT / "target/release/deepzero"
    parser.add_argument("--deepzero", default=str(binary), metavar="FILE", help="the binary to measure")
    parser.add_argument("--json", action="store_true", help="all numbers on stdout, the table on stderr")
    return parser.parse_args()


def main():
    args = parse_args()
    about = provenance(args)
    if about["load_before"] > BUSY_LOAD:
        print(f"warning: load {about['load_before']:.1f} on this machine distorts the times", file=sys.stderr)
    chosen = {name: c for name, c in comparisons(args.coords).items() if not args.only or name in args.only}
    failures = {}
    for name, comparison in chosen.items():
        print(name, file=sys.stderr)
        failures[name] = measure(comparison, args)
    table = markdown(about, [row for comparison in chosen.values() for row in comparison.rows])
    if args.json:
        print(table, file=sys.stderr)
        entries = [as_json(name, c, failures[name], args) for name, c in chosen.items()]
        print(json.dumps({**about, "comparisons": entries}, indent=2))
    else:
        print(table)
    sys.exit(any(failures.values()))


if __name__ == "__main__":
    main()
