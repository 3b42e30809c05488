"""read_results, and what the package says of itself."""

from pathlib import Path

import pytest

import deepzero

ROOT = Path(__file__).resolve().parents[2]


def test_results_are_a_frame():
    frame = deepzero.read_results("fig4", "laptop", results=ROOT / "results")
    assert {"row", "epoch", "test_accuracy", "series"} <= set(frame.columns)
    files = list((ROOT / "results/fig4/laptop").glob("*.parquet"))
    assert sum(row == "final" for row in frame["row"]) == len(files) > 0


def test_missing_results_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="deepzero reproduce fig4 --scale paper"):
        deepzero.read_results("fig4", "paper", results=tmp_path)


def test_examples_of_docstrings_run():
    import doctest

    import deepzero._minimize
    import deepzero._optimizer

    for module in (deepzero._minimize, deepzero._optimizer):
        globs = {"minimize": deepzero.minimize, "Optimizer": deepzero.Optimizer}
        failed, tried = doctest.testmod(module, globs=globs)
        assert failed == 0 and tried > 0


def test_the_version_is_the_crates():
    manifest = (ROOT / "python/Cargo.toml").read_text()
    assert f'version = "{deepzero.__version__}"' in manifest
