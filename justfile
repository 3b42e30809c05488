# Thin wrappers around cargo; `just` alone lists them.

deepzero := "cargo run --release --quiet --"

# List the recipes
default:
    @just --list

# Run the missing trials of exhibits and write their reports: just reproduce fig4 --scale laptop
reproduce *args:
    {{deepzero}} reproduce {{args}}

# Vary one setting: just sweep mu --values 1e-3,5e-3
sweep *args:
    {{deepzero}} sweep {{args}}

# Say what a run would do and cost: just plan fig4 --scale paper
plan *args:
    {{deepzero}} plan {{args}}

# Rebuild the reports from the results alone
report *args:
    {{deepzero}} report {{args}}

# Show which trials are done, running, failed or missing
status *args:
    {{deepzero}} status {{args}}

# Fetch, describe or verify CIFAR-10: just data fetch --data-dir data
data *args:
    {{deepzero}} data {{args}}

# Run the tests
test *args:
    cargo test --release {{args}}

# Format, lints and documentation, with warnings as errors
check:
    cargo fmt --check
    cargo clippy --release --all-targets -- -D warnings
    RUSTDOCFLAGS=-Dwarnings cargo doc --release --no-deps

# What this machine is, whether the program computes rightly on it, and how fast
doctor *args:
    {{deepzero}} doctor {{args}}

# Type-check the part for GPUs; fetches a CUDA toolkit into target/cuda/toolkit if the machine has none
cuda-check *args:
    scripts/with-cuda cargo check --release --features cuda --target-dir target/cuda {{args}}

# Build for GPUs; needs none. Copy target/cuda/deepzero to a machine that has one
cuda-build:
    scripts/with-cuda cargo build --release --features cuda --target-dir target/cuda
    scripts/with-cuda scripts/cuda-bundle target/cuda/release/deepzero target/cuda/deepzero

# The tests with the part for GPUs; those that need one are skipped where there is none
cuda-test *args:
    scripts/with-cuda cargo test --release --features cuda --target-dir target/cuda {{args}}

# Every exhibit at smoke scale, into target/smoke
smoke:
    {{deepzero}} reproduce all --scale smoke --results target/smoke/results --reports target/smoke/reports

# Every fuzz target for a minute, or only some: just fuzz 600 pickle record (needs a nightly toolchain and cargo-fuzz)
fuzz SECONDS="60" *TARGETS:
    #!/usr/bin/env bash
    set -euo pipefail
    targets="{{TARGETS}}"
    for target in ${targets:-$(cargo +nightly fuzz list)}; do
        # What it finds stays out of the corpus, which is part of the repository.
        mkdir -p "fuzz/found/$target"
        cargo +nightly fuzz run --release --sanitizer none "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
            -max_total_time={{SECONDS}} -timeout=20 -rss_limit_mb=2048 -max_len=65536
    done

# Golden tests on the pixels that PyTorch saw; PARQUET holds CIFAR-10's training images
golden PARQUET="../shared/data/cifar10/plain_text/train/0000.parquet":
    test -d target/golden/venv || python3 -m venv target/golden/venv
    target/golden/venv/bin/pip install --quiet pillow numpy pyarrow
    target/golden/venv/bin/python tests/golden/decode.py {{PARQUET}} target/golden/pixels
    DEEPZERO_GOLDEN_PIXELS="$PWD/target/golden/pixels" cargo test --release golden

# Build the Python package and run its tests
python *args:
    test -d target/python-venv || python3 -m venv target/python-venv
    target/python-venv/bin/python -m pip install --quiet ./python pytest pandas pyarrow
    target/python-venv/bin/python -m pytest python/tests {{args}}

# What optimizers of black boxes cost per evaluation, beside scipy and nevergrad
bench-blackbox *args:
    test -d target/python-venv || python3 -m venv target/python-venv
    target/python-venv/bin/python -m pip install --quiet ./python --requirement benches/blackbox/requirements.txt
    cargo build --release
    target/python-venv/bin/python benches/blackbox/overhead.py --deepzero target/release/deepzero {{args}}

# Speed side by side with PyTorch: just bench-peers --only cge-uniform conv
bench-peers *args:
    test -d target/peers/venv || python3 -m venv target/peers/venv
    target/peers/venv/bin/python -m pip install --quiet --requirement benches/peers/requirements.txt
    cargo build --release
    target/peers/venv/bin/python benches/peers/compare.py {{args}}

# A step of the flow solver beside NumPy's and PhiFlow's
bench-flow *args:
    test -d target/peers/venv || python3 -m venv target/peers/venv
    target/peers/venv/bin/python -m pip install --quiet --requirement benches/peers/requirements-flow.txt
    cargo build --release
    target/peers/venv/bin/python benches/peers/flow.py {{args}}
