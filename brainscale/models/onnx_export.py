"""Export networks to ONNX, for engines without torch."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnxscript
import torch
from torch import Tensor

from brainscale.models.classifier import Classifier
from brainscale.models.engines import EngineOutput
from brainscale.models.ensemble import build_from_spec, first_stage, name_parameters
from brainscale.models.network_spec import NetworkSpec
from brainscale.storage.local import replacing


@functools.lru_cache(maxsize=2)
def make_onnx_program(spec: NetworkSpec, classes: int, size: int, *, winograd: bool = True) -> torch.onnx.ONNXProgram:
    """Return a network with normalisation and softmax as an ONNX graph with random weights; takes seconds.

    The input `planes` is uint8 [batch, size, size]; the outputs are `probabilities`, float32
    [batch, classes], and `features`, float32 [batch, D].

    Args:
        spec: the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
        winograd: whether to compute with Winograd convolutions, where the network has them.
    """
    network = build_from_spec(spec, classes)
    classifier = Classifier(network, first_stage(spec), together=True, winograd=winograd).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_loggers():
        warnings.simplefilter("ignore")  # the exporter warns about deprecated functions of its own
        program = torch.onnx.export(
            classifier,
            (torch.zeros(2, size, size, dtype=torch.uint8),),
            input_names=["planes"],
            output_names=list(EngineOutput._fields),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            optimize=False,  # it would fold the random weights into the graph
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"the export of {spec.architecture} returned no ONNX graph")
    return program


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
    program = make_onnx_program(spec, classes, size, winograd=winograd)
    # without the counters of batch norm, which the graph does not have
    named = name_parameters(spec, weights)
    initializers = {f"network.{key}": value for key, value in named.items() if value.is_floating_point()}
    missing = sorted(initializers.keys() - program.model.graph.initializers.keys())
    if missing:
        raise RuntimeError(f"the ONNX graph of {spec.architecture} has no {missing[0]}")
    program.apply_weights(initializers)
    with replacing(path) as temporary, _quiet_loggers():
        onnx.save(_drop_traces(onnxscript.optimizer.optimize(program.model_proto)), temporary)


def _drop_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Delete what the exporter notes of the source code: it names folders of this machine, which bytes depend on."""
    graphs = [model.graph, *model.functions]
    nodes = (node for graph in graphs for node in graph.node)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for item in (model, *graphs, *nodes, *values):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return model


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Silence the exporter's log during the with-block; its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
