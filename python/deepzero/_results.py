"""Result files of experiments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Union


def read_results(id: str, scale: str = "smoke", *, results: Union[str, os.PathLike[str]] = "results") -> Any:
    """All rows of the results of an experiment at a scale, one trial after the other, as a DataFrame.

    A DataFrame of polars if it is installed, else of pandas (with pyarrow or fastparquet). `row` tells the rows of epochs
    from the final one of a trial; results/README.md of the repository explains all columns.

    Args:
        id: the experiment, such as `fig4`.
        scale: `smoke`, `laptop`, `overnight` or `paper`.
        results: folder of result files.
    """
    folder = Path(results) / id / scale
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"{folder}: no results; `deepzero reproduce {id} --scale {scale}` makes some")
    try:
        import polars
    except ImportError:
        pass
    else:
        frames = [polars.read_parquet(file) for file in files]
        return polars.concat(frames, how="diagonal_relaxed")
    try:
        import pandas
    except ImportError:
        raise ImportError("read_results needs polars or pandas: pip install polars") from None
    frames = [pandas.read_parquet(file) for file in files]
    # Files that were written later may have columns that others lack.
    columns = list(dict.fromkeys(column for frame in frames for column in frame.columns))
    kept = [frame.dropna(axis=1, how="all") for frame in frames]
    return pandas.concat(kept, ignore_index=True).reindex(columns=columns)
