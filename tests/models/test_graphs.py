"""The graphs that a job chooses from agree, the fastest is taken, and the choice is kept."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainscale.models import graphs
from brainscale.models.bundle import Bundle
from brainscale.models.engines import (
    DIRECT,
    OPENVINO,
    OWN,
    EngineOptions,
    EngineOutput,
    OpenVinoEngine,
    describe_arithmetic,
    load_engine,
    read_network,
)

OPTIONS = EngineOptions(name="onnx")
SIZE = 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "brainscale" / graphs.CHOICES


@pytest.fixture(scope="module")
def two(bundle: Bundle) -> dict[str, bytes]:
    """Both graphs of BrainMRNet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "read_choice", lambda info: None)
        return graphs.make_graphs(bundle, OPTIONS, graphs.LONG_PIXELS)


def planes_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE), np.uint8)


def test_all_ways_to_compute_agree_with_torch(bundle: Bundle, two: dict[str, bytes]) -> None:
    assert list(two) == [OWN, DIRECT]
    torch = EngineOptions(name="torch")
    expected = load_engine(bundle.info, read_network(bundle, torch), torch)(planes_of(5))
    for name, network in {**two, OPENVINO: two[DIRECT]}.items():
        for threads in (1, 3):
            found = load_engine(bundle.info, network, OPTIONS, threads=threads, graph=name)(planes_of(5))
            assert np.abs(found.probabilities - expected.probabilities).max() <= 1e-5, name
            assert np.abs(found.features - expected.features).max() <= 1e-3, name
    assert sys.modules["openvino_telemetry"] is None
    names = [describe_arithmetic(OPTIONS, name) for name in (OWN, DIRECT, OPENVINO)]
    assert [name.startswith("OpenVINO 20") for name in names] == [False, False, True]
    assert ["without Winograd" in name for name in names] == [False, True, True]


def test_a_job_has_a_choice_where_it_pays(bundle: Bundle) -> None:
    long = graphs.LONG_PIXELS
    assert list(graphs.make_graphs(bundle, OPTIONS, long - 1)) == [OWN]
    other = replace(bundle, info=bundle.info.model_copy(update={"architecture": "resnet50"}))
    assert list(graphs.make_graphs(other, OPTIONS, long)) == [OWN]
    assert list(graphs.make_graphs(bundle, EngineOptions(name="torch"), long)) == [OWN]
    graphs._keep_choice(bundle.info, OWN)
    assert list(graphs.make_graphs(bundle, OPTIONS, long)) == [OWN]


def test_a_choice_is_made_once(
    bundle: Bundle, two: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graphs.read_choice(bundle.info) is None
    engine, chosen = graphs.open_fastest(bundle.info, two, OPTIONS, threads=2)
    assert chosen in (OWN, DIRECT, OPENVINO)
    assert engine(planes_of(1)).probabilities.shape == (1, len(bundle.info.classes))
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(graphs, "_choose", None)
    assert graphs.open_fastest(bundle.info, two, OPTIONS)[1] == chosen
    graphs._keep_choice(bundle.info, DIRECT)
    assert graphs.open_fastest(bundle.info, two, OPTIONS)[1] == DIRECT
    monkeypatch.setattr(graphs, "read_cpu_model", lambda: "another CPU")
    assert graphs.read_choice(bundle.info) is None


@pytest.mark.parametrize("content", ["", "rm -rf", "\x00"])
def test_a_choice_that_means_nothing_is_made_again(bundle: Bundle, content: str) -> None:
    graphs._keep_choice(bundle.info, content)
    assert graphs.read_choice(bundle.info) is None


def test_a_choice_needs_no_folder(bundle: Bundle, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    graphs._keep_choice(bundle.info, DIRECT)
    assert graphs.read_choice(bundle.info) is None


@pytest.mark.parametrize(
    ("seconds", "wrong", "expected"),
    [
        ({"own": 1.0, "other": 0.9}, (), "other"),
        ({"own": 1.0, "other": 0.96}, (), "own"),  # too little to be sure of
        ({"own": 1.0, "other": 1.2, "third": 0.8}, (), "third"),
        ({"own": 1.0, "other": 0.5, "third": 0.8}, ("other",), "third"),  # a graph that disagrees is no candidate
    ],
)
def test_the_fastest_that_agrees_is_taken(
    seconds: dict[str, float], wrong: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_engine(name: str) -> Callable[[np.ndarray], EngineOutput]:
        def run(planes: np.ndarray) -> EngineOutput:
            return EngineOutput(np.full((len(planes), 2), 0.5 + 1e-4 * (name in wrong)), np.zeros((len(planes), 1)))

        return run

    engines = {name: make_engine(name) for name in seconds}
    time_of = {id(engine): seconds[name] for name, engine in engines.items()}
    monkeypatch.setattr(graphs, "_time_call", lambda engine, planes: time_of[id(engine)])
    assert graphs._choose(engines, SIZE, 2) == expected


def test_openvino_has_computed_once_before_there_are_threads(bundle: Bundle, two: dict[str, bytes]) -> None:
    """Its first calls, if two threads make them at once, may wait for each other for ever."""
    pytest.importorskip("openvino", reason="NOT TESTED: OpenVINO is not installed")
    engine = load_engine(bundle.info, two[DIRECT], OPTIONS, threads=2, graph=OPENVINO)
    assert isinstance(engine, OpenVinoEngine)
    assert engine._of_thread.request is not None  # of the thread that loaded it
