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


@pytest.mark.parametrize("id, scale, column", [("fig2", "paper", "norm_scale"), ("rge-model", "laptop", "tuned")])
def test_columns_that_older_files_lack_are_kept(monkeypatch, id, scale, column):
    """Oracle: the files one by one, by pyarrow."""
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("pandas")
    # Of the two libraries the second is asked where the first is not there.
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    frame = deepzero.read_results(id, scale, results=ROOT / "results")
    files = (ROOT / "results" / id / scale).glob("*.parquet")
    tables = [parquet.read_table(file) for file in files]
    n_values = sum(len(t) - t[column].null_count for t in tables if column in t.column_names)
    assert frame[column].notna().sum() == n_values > 0


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
