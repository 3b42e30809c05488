"""Writes the pixels that the golden values were made from, as PyTorch saw them (decoded by Pillow).

usage: decode.py CIFAR_TRAIN_PARQUET OUT_DIR     (needs pillow, numpy, pyarrow)
Then: DEEPZERO_GOLDEN_PIXELS=OUT_DIR cargo test --release golden
"""
import io
import os
import sys

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

parquet, out = sys.argv[1:]
os.makedirs(out, exist_ok=True)
images = pq.read_table(parquet, columns=["img"]).column("img")
# The rows that FO-GraSP scores lie among the first 2,000; the loss trace uses 320 from row 30,000.
for first, n in ((0, 2000), (30000, 320)):
    with open(f"{out}/rows_{first}.bin", "wb") as file:
        for row in images.slice(first, n).to_pylist():
            pixels = np.asarray(Image.open(io.BytesIO(row["bytes"])))
            file.write(np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes())
