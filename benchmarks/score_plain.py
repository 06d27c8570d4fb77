"""Score a folder as plainly as it gets: threads, Pillow and one ONNX Runtime session.

python benchmarks/score_plain.py MODEL.onnx FOLDER OUT.parquet: what a competent user writes in an hour. One file that
cannot be read ends it, a killed run starts over, and nobody knows which weights gave a score.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

if __name__ == "__main__":
    model, folder, out = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    side = given.shape[-1]

    def score(file: Path) -> float:
        """Return the probability of a tumour."""
        image = Image.open(file)
        image.draft("L", (side, side))
        plane = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BILINEAR))
        (probabilities,) = session.run(["probabilities"], {given.name: plane[None]})
        return float(probabilities[0, 1])

    files = sorted(Path(folder).iterdir())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(score, files))
    pq.write_table(pa.table({"path": [str(file) for file in files], "probability": found}), out)
