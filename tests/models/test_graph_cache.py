"""A graph is exported once for each version of the code; weights fill it exactly, or not at all."""

import itertools
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from brainscale.models import graph_cache
from brainscale.models.graph_cache import _describe_exporter, export_graph
from brainscale.models.network_spec import NetworkSpec
from brainscale.models.onnx_export import export_onnx
from tests.support.bundles import network_with_statistics

PAPER = NetworkSpec(architecture="brainmrnet_paper")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    export_graph.cache_clear()
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
    export_graph.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_run_exporter", no_export)
        export_onnx(PAPER, 2, 64, weights, tmp_path / "second.onnx")
        with pytest.raises(AssertionError, match="exported again"):
            export_graph(PAPER, 2, 96)
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


@pytest.mark.parametrize("package", graph_cache.PACKAGES, ids=lambda package: package.__name__)
def test_another_version_of_a_package_needs_an_export(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _describe_exporter()
    monkeypatch.setattr(package, "__version__", "0")
    assert _describe_exporter() != before


def test_another_byte_of_any_code_and_another_type_need_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "models"
    shutil.copytree(Path(graph_cache.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(graph_cache, "__file__", str(code / "graph_cache.py"))
    seen = [_describe_exporter()]
    for name in ("brainmrnet.py", "normalisation.py", "views.py"):
        with (code / name).open("ab") as file:
            file.write(b"#")
        seen.append(_describe_exporter())
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    seen.append(_describe_exporter())
    assert all(one != other for one, other in itertools.combinations(seen, 2))


@pytest.mark.parametrize("change", ["facts", "damage"])
def test_other_facts_and_damage_need_an_export(change: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export_graph(PAPER, 2, 64)
    export_graph.cache_clear()
    if change == "facts":
        monkeypatch.setattr(graph_cache, "_describe_exporter", lambda: {"code": "changed"})
    else:
        (kept,) = cache.iterdir()
        kept.write_bytes(kept.read_bytes()[:-1])
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_run_exporter", no_export)
        with pytest.raises(AssertionError, match="exported again"):
            export_graph(PAPER, 2, 64)
    assert export_graph(PAPER, 2, 64) == first


def test_code_that_was_written_since_the_process_began_neither_takes_nor_keeps_a_graph(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long training may outlive an upgrade: the graph of its code is not that of the new files."""
    code = cache.parent.parent / "network.py"
    code.parent.mkdir()
    code.write_text("new = True")
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_code_files", lambda: [code])
        patch.setattr(graph_cache, "_run_exporter", lambda *arguments, **options: b"graph of the old code")
        assert export_graph(PAPER, 2, 64) == b"graph of the old code"
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
