"""A graph is exported once for each version of the code; weights fill it exactly, or not at all."""

from pathlib import Path

import pytest
import torch

from brainscale.models import graph_cache
from brainscale.models.graph_cache import make_graph
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx
from tests.support.bundles import network_with_statistics

PAPER = NetworkSpec(architecture="brainmrnet_paper")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_graph.cache_clear()
    return tmp_path / "cache" / "brainscale" / graph_cache.GRAPHS


def no_export(*arguments: object, **options: object) -> bytes:
    raise AssertionError("exported again")


def test_a_later_process_takes_the_graph_of_an_earlier_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = network_with_statistics(PAPER.architecture).state_dict()
    export_onnx(PAPER, 2, 64, weights, tmp_path / "first.onnx")
    (kept,) = cache.iterdir()
    assert kept.stat().st_size < 100_000  # no weights
    make_graph.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_export", no_export)
        export_onnx(PAPER, 2, 64, weights, tmp_path / "second.onnx")
        with pytest.raises(AssertionError, match="exported again"):
            make_graph(PAPER, 2, 96)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


@pytest.mark.parametrize("change", ["code", "version", "damage"])
def test_other_code_other_versions_and_damage_need_an_export(
    change: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_graph(PAPER, 2, 64)
    make_graph.cache_clear()
    if change == "code":
        monkeypatch.setattr(graph_cache, "_hash_code", lambda: "changed")
    elif change == "version":
        monkeypatch.setattr(graph_cache, "version", lambda package: "0")
    else:
        (kept,) = cache.iterdir()
        kept.write_bytes(kept.read_bytes()[:-1])
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_export", no_export)
        with pytest.raises(AssertionError, match="exported again"):
            make_graph(PAPER, 2, 64)
    assert make_graph(PAPER, 2, 64) == first


def test_code_that_was_written_since_the_process_began_neither_takes_nor_keeps_a_graph(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long training may outlive an upgrade: the graph of its code is not that of the new files."""
    code = cache.parent.parent / "network.py"
    code.parent.mkdir()
    code.write_text("new = True")
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_code_files", lambda: [code])
        patch.setattr(graph_cache, "_export", lambda *arguments, **options: b"graph of the old code")
        assert make_graph(PAPER, 2, 64) == b"graph of the old code"
    assert not cache.exists()


@pytest.mark.parametrize("kind", ["missing", "shape", "type"])
def test_weights_of_another_network_are_refused(kind: str, tmp_path: Path) -> None:
    weights = network_with_statistics(PAPER.architecture).state_dict()
    name = next(iter(weights))
    if kind == "missing":
        del weights[name]
    else:
        weights[name] = torch.zeros(1) if kind == "shape" else weights[name].double()
    with pytest.raises(RuntimeError, match=name):
        export_onnx(PAPER, 2, 64, weights, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
