"""Write the graph of a model without Winograd's convolutions, in a process of its own: torch's memory ends with it.

python -m brainscale.models.direct_main MODEL_FOLDER OUT.onnx
"""

import sys
from pathlib import Path

from safetensors.torch import load_file

from brainscale.models.bundle import open_bundle
from brainscale.models.onnx_export import export_onnx


def main(folder: str, out: str) -> None:
    """Write the graph of the model in a folder."""
    bundle = open_bundle(folder, allow_edited=True)
    info, weights = bundle.info, load_file(bundle.weights)
    export_onnx(info.network, len(info.classes), info.preprocess.image_size, weights, Path(out), winograd=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
