"""Write the int8 graph of a model: its convolutions multiply 8-bit integers, and most of the rest stays in float32."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from brainscale.errors import UsageError
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx

MIN_CHANNELS = 8
"""Fewest input channels, of a group, of a convolution that is quantised: others gain nothing, and lose most."""
CALIBRATION = (
    f"Convolutions of {MIN_CHANNELS} or more input channels, with ReLU and max pooling behind them, compute in int8 "
    "(7-bit weights, scaled for each output channel; activations from their minimum to their maximum)"
)


def export_int8(
    spec: NetworkSpec, classes: int, size: int, weights: Mapping[str, Tensor], planes: np.ndarray, path: Path
) -> None:
    """Write a network as one ONNX file whose convolutions are quantised, without Winograd.

    Weights have 7 bits, so that no sum of two products overflows 16 bits on CPUs without VNNI: the graph computes the
    same integers on every CPU.

    Args:
        spec: the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
        weights: contents of the model's file of weights.
        planes: what the ranges of the activations are chosen on, uint8 [n ≥ 1, size, size].
        path: the file to write.

    Raises:
        UsageError: the network has no convolution that would gain by it.
    """
    with tempfile.TemporaryDirectory(prefix="brainscale-int8-") as scratch, _quiet_logger():
        exported, prepared = Path(scratch, "exported.onnx"), Path(scratch, "prepared.onnx")
        export_onnx(spec, classes, size, weights, exported, winograd=False)
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)  # folds batch norms into convolutions
        nodes = _list_quantised_nodes(onnx.load(prepared))
        if not nodes:
            raise UsageError(f"{spec.architecture} has no convolution that gains by int8: score it with fp32")
        quantize_static(
            prepared,
            path,
            _Planes(planes),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_quantize=nodes,
        )


def _list_quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions with at least `MIN_CHANNELS` input channels, and of what stays in int8.

    ReLU and max pooling behind them cost nothing in int8, and spare a conversion to float32 and back.
    """
    shapes = {one.name: one.dims for one in model.graph.initializer}
    names: list[str] = []
    outputs: set[str] = set()
    for node in model.graph.node:  # in the order of their computation
        is_wide = node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] >= MIN_CHANNELS
        if is_wide or (node.op_type in ("Relu", "MaxPool") and node.input[0] in outputs):
            names.append(node.name)
            outputs.add(node.output[0])
    return names


class _Planes(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the quantiser one plane after the other."""

    def __init__(self, planes: np.ndarray) -> None:
        self._planes = iter(planes)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next plane as a batch; None after the last."""
        plane = next(self._planes, None)
        return None if plane is None else {"planes": cast("np.ndarray", plane)[None]}


@contextlib.contextmanager
def _quiet_logger() -> Iterator[None]:
    """Silence the quantiser's advice, which it writes to the root logger, during the with-block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
