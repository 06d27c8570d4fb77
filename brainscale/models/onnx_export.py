"""Export networks to ONNX, for engines without torch."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxscript
from torch import Tensor

from brainscale.models.ensemble import name_parameters
from brainscale.models.graph_cache import WEIGHTS_PREFIX, drop_traces, export_graph, quiet_loggers
from brainscale.models.network_spec import NetworkSpec
from brainscale.storage.local import replacing


def export_onnx(
    spec: NetworkSpec,
    classes: int,
    size: int,
    weights: Mapping[str, Tensor],
    path: Path,
    *,
    winograd: bool = True,
) -> None:
    """Write a network with its weights as one ONNX file.

    Args:
        spec: the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
        weights: contents of the model's file of weights.
        path: the file to write; it appears complete or not at all.
        winograd: whether to compute with Winograd convolutions, where the network has them.
    """
    model = onnx.load_from_string(export_graph(spec, classes, size, winograd=winograd))
    # without the counters of batch norm, which the graph does not have
    named = {
        f"{WEIGHTS_PREFIX}{key}": value
        for key, value in name_parameters(spec, weights).items()
        if value.is_floating_point()
    }
    _fill(model, named, spec.architecture)
    with replacing(path) as temporary, quiet_loggers():
        onnx.save(drop_traces(onnxscript.optimizer.optimize(model)), temporary)


def _fill(model: onnx.ModelProto, weights: Mapping[str, Tensor], architecture: str) -> None:
    """Give the weights of a graph their values; each must be there, in its shape and type, and none besides."""
    initializers = {each.name: each for each in model.graph.initializer if not each.HasField("raw_data")}
    if different := sorted(initializers.keys() ^ weights.keys()):
        raise RuntimeError(f"the ONNX graph of {architecture} and its weights differ in {different[0]}")
    for name, initializer in initializers.items():
        array = weights[name].detach().cpu().numpy()
        given = onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
        if given != (initializer.data_type, list(initializer.dims)):
            raise RuntimeError(f"the ONNX graph of {architecture} has {name} in another shape or type")
        initializer.raw_data = array.tobytes()
