"""Read the planes of a folder window by window through an object store that is much smaller; prints facts as JSON.

python -m tests.support.small_store FOLDER SIDE
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import ray
from ray._private.internal_api import memory_summary

from brainscale.cluster.session import session
from brainscale.config.files import load_config
from brainscale.training.plane_blocks import StreamedBlocks
from brainscale.training.plane_store import store_planes
from brainscale.training.sampler import cut_into_windows, epoch_order, own_positions
from tests.support.indexing import index_folder

STORE_GIB = 76 / 1024
"""Ray's object stores have at least 75 MiB."""
EPOCHS, WINDOW, BATCH = 2, 32, 8

if __name__ == "__main__":
    folder, side = Path(sys.argv[1]), int(sys.argv[2])
    config = load_config(None, [f"data.image_size={side}"])
    notices: list[str] = []
    manifest = index_folder(folder)
    manifest = manifest.filter(pc.is_null(manifest["error_code"]))
    with session(1, STORE_GIB):
        stored = store_planes([manifest], config, notices.append)
        ids = manifest["sample_id"].to_pylist()
        planes = stored.locate(ids).open(side)
        hashes = [{} for _ in range(EPOCHS)]
        for epoch in range(EPOCHS):
            order = epoch_order(len(ids), 0, epoch + 1, WINDOW)
            windows = [own_positions(w, 0, 1) for w in cut_into_windows(order, WINDOW, BATCH, 2)]
            for window, following in zip(windows, [*windows[1:], None], strict=True):
                planes.hold(window, following)
                for position, plane in zip(window, planes.take(window), strict=True):
                    hashes[epoch][ids[position]] = hashlib.sha256(plane.tobytes()).hexdigest()
        spilled = re.search(
            r"Spilled (\d+) MiB", memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        )
    facts = {
        "hashes": hashes,
        "streamed": isinstance(stored.blocks, StreamedBlocks),
        "spilled_mib": int(spilled[1]) if spilled else 0,
        "notices": notices,
        "memory_mib": psutil.Process().memory_info().rss >> 20,
        "planes_mib": len(ids) * side**2 >> 20,
    }
    assert np.all([len(found) == len(ids) for found in hashes])
    sys.stdout.write(json.dumps(facts))
