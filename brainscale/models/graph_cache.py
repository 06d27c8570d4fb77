"""The ONNX graph of a network without its weights: exported once for each version, then taken from the user's cache."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir
import onnxscript
import torch
import torchvision

from brainscale.hashing import file_sha256
from brainscale.models.classifier import Classifier
from brainscale.models.engines import EngineOutput
from brainscale.models.ensemble import build_from_spec, first_stage
from brainscale.models.network_spec import NetworkSpec
from brainscale.storage.user_cache import keep_cached, read_cached
from brainscale.version import LOADED_AT, __version__

WEIGHTS_PREFIX = "network."
"""What the names of weights begin with in a graph."""
GRAPHS = "graphs"
"""Name of the graphs in the user's cache."""
PACKAGES: tuple[ModuleType, ...] = (torch, torchvision, onnx, onnx_ir, onnxscript)
"""Packages whose version may change a graph."""


@functools.lru_cache(maxsize=8)
def export_graph(spec: NetworkSpec, classes: int, size: int, *, winograd: bool = True) -> bytes:
    """Return a network with normalisation and softmax as an ONNX graph whose weights have no values.

    The input `planes` is uint8 [batch, size, size]; the outputs are `probabilities`, float32
    [batch, classes], and `features`, float32 [batch, D]. An export takes seconds, a graph in the cache none.

    Args:
        spec: the network.
        classes: number of classes.
        size: width and height of a plane in pixels.
        winograd: whether to compute with Winograd convolutions, where the network has them.
    """
    if _code_has_changed():
        return _run_exporter(spec, classes, size, winograd=winograd)
    facts: dict[str, Any] = {"spec": asdict(spec), "classes": classes, "size": size, "winograd": winograd}
    facts |= _describe_exporter()
    graph = read_cached(GRAPHS, facts)
    if graph is None:
        graph = _run_exporter(spec, classes, size, winograd=winograd)
        keep_cached(GRAPHS, facts, graph)
    return graph


def _code_files() -> list[Path]:
    """Return the files with the code of all networks."""
    return list(Path(__file__).parent.rglob("*.py"))


def _code_has_changed() -> bool:
    """Return whether code was written since this process loaded the first of it, so it may run the code of before."""
    return any(path.stat().st_ctime >= LOADED_AT for path in _code_files())


def _describe_exporter() -> dict[str, Any]:
    """Return what decides how a network is exported: our code, the packages that this process loaded, and settings."""
    packages = {package.__name__: package.__version__ for package in PACKAGES}
    code = {path.name: file_sha256(path) for path in _code_files()}
    return {"brainscale": __version__, "code": code, "dtype": str(torch.get_default_dtype()), **packages}


def _run_exporter(spec: NetworkSpec, classes: int, size: int, *, winograd: bool) -> bytes:
    """Export a network with random weights, and return its graph without their values."""
    network = build_from_spec(spec, classes)
    classifier = Classifier(network, first_stage(spec), together=True, winograd=winograd).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet_loggers():
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
    model = drop_traces(program.model_proto)
    weights = {f"{WEIGHTS_PREFIX}{key}" for key, value in network.state_dict().items() if value.is_floating_point()}
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.ClearField("raw_data")
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def drop_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Delete notes on the source code and on what was folded; they name folders of this machine."""
    graphs = [model.graph, *model.functions]
    nodes = (node for graph in graphs for node in graph.node)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for item in (model, *graphs, *nodes, *values):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return model


@contextlib.contextmanager
def quiet_loggers() -> Iterator[None]:
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
