"""Choose the fastest of a network's graphs on this CPU, by timing them; the choice is kept for later jobs.

BrainMRNet has a graph with Winograd's convolutions, which needs fewer multiplications and more memory traffic, and one
without. Which is faster depends on the CPU. Where OpenVINO is installed, it may run the graph without. The
probabilities of all of them agree to 1e-5.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from brainscale.models.bundle import Bundle, ModelInfo
from brainscale.models.engines import DIRECT, OPENVINO, OWN, Engine, EngineOptions, load_engine, read_network
from brainscale.models.processor import read_cpu_model
from brainscale.storage.user_cache import keep_cached, read_cached

LONG_PIXELS = 2**28
"""Pixels for each CPU to score from which on timing pays: some minutes of work of BrainMRNet."""
ROUNDS, ROUND_SECONDS = 4, 0.2
"""How often, and how long at a time, each graph is timed, in turns."""
PLANES = 2
"""Planes of one call for each thread while graphs are timed."""
GAIN = 1.05
"""Times as fast as the model's own graph that another one must be."""
AGREEMENT = 1e-5
"""Largest difference of two probabilities of graphs that may stand for each other."""
CHOICES = "choices"
"""Name of the choices in the user's cache."""
NETWORKS = ("brainmrnet",)
"""Networks with two graphs."""


def make_graphs(bundle: Bundle, options: EngineOptions, pixels_per_cpu: float) -> dict[str, bytes]:
    """Return name → contents of the graphs that a job chooses from: only the model's own where timing does not pay.

    Making another graph takes some seconds, in a process of its own.

    Args:
        bundle: the model.
        options: options from `resolve_engine`.
        pixels_per_cpu: work of the job.
    """
    graphs = {OWN: read_network(bundle, options)}
    specs = bundle.info.network.networks
    has_choice = (
        options.name == "onnx" and options.precision == "fp32" and any(s.architecture in NETWORKS for s in specs)
    )
    if not has_choice or pixels_per_cpu < LONG_PIXELS or read_choice(bundle.info) == OWN:
        return graphs
    with TemporaryDirectory(prefix="brainscale-graph-") as folder:
        path = Path(folder, "direct.onnx")
        exported = subprocess.run(  # noqa: S603 (this interpreter, our own module)
            [sys.executable, "-P", "-m", "brainscale.models.direct_main", str(bundle.folder.absolute()), str(path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            check=False,
        )
        if exported.returncode == 0:  # else the model's own graph serves
            graphs[DIRECT] = path.read_bytes()
    return graphs


def open_fastest(
    info: ModelInfo, graphs: Mapping[str, bytes], options: EngineOptions, *, threads: int = 1
) -> tuple[Engine, str]:
    """Start the fastest engine on this CPU, and return it with the name of its graph.

    Args:
        info: description of the model.
        graphs: what `make_graphs` returned; the first one is the model's own.
        options: options from `resolve_engine`.
        threads: number of CPU threads.
    """
    own, *others = graphs
    if not others:
        return load_engine(info, graphs[own], options, threads=threads), own
    candidates = {**graphs, **({OPENVINO: graphs[DIRECT]} if find_spec("openvino") is not None else {})}
    if (known := read_choice(info)) in candidates:
        return load_engine(info, candidates[known], options, threads=threads, graph=known), known
    engines = {
        name: load_engine(info, network, options, threads=threads, graph=name) for name, network in candidates.items()
    }
    chosen = _choose(engines, info.preprocess.image_size, threads)
    _keep_choice(info, chosen)
    return engines[chosen], chosen


def _choose(engines: Mapping[str, Engine], size: int, threads: int) -> str:
    """Return the name of the fastest engine; the first one unless another is clearly faster, and agrees with it."""
    own = next(iter(engines))
    planes = np.random.default_rng(0).integers(0, 256, (PLANES * threads, size, size), np.uint8)
    expected = engines[own](planes).probabilities
    agreeing = {n: e for n, e in engines.items() if np.abs(e(planes).probabilities - expected).max() <= AGREEMENT}
    seconds = dict.fromkeys(agreeing, float("inf"))
    for _ in range(ROUNDS):
        for name, engine in agreeing.items():
            seconds[name] = min(seconds[name], _time_call(engine, planes))
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds[fastest] * GAIN <= seconds[own] else own


def _time_call(engine: Engine, planes: np.ndarray) -> float:
    """Return the mean seconds of a call."""
    began, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < ROUND_SECONDS:
        engine(planes)
        calls += 1
    return passed / calls


def read_choice(info: ModelInfo) -> str | None:
    """Return the graph that was chosen on this CPU for networks of this shape; None if none was."""
    kept = read_cached(CHOICES, _describe(info))
    return next((graph for graph in (OWN, DIRECT, OPENVINO) if graph.encode() == kept), None)


def _keep_choice(info: ModelInfo, graph: str) -> None:
    keep_cached(CHOICES, _describe(info), graph.encode())


def _describe(info: ModelInfo) -> dict[str, Any]:
    """Return what decides which graph is the fastest: CPU, versions and shape of the network."""
    versions = {}
    for package in ("onnxruntime", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    shape = [[spec.architecture, spec.views] for spec in info.network.networks]
    return {"cpu": read_cpu_model(), **versions, "networks": shape, "size": info.preprocess.image_size}
