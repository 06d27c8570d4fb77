"""Scores in int8: their own identity in every part and file, and never in one folder with float32's; without Ray."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from brainscale.errors import BundleError, UsageError
from brainscale.models import engines
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.models.engines import EngineOptions, describe_slow_choice, resolve_engine
from tests.support.evaluating import edit_threshold
from tests.support.images import write_image
from tests.support.runs import Invoke, scores, succeed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(3):
        write_image(tmp_path / "source" / f"{number}.png", seed=number)
    return tmp_path / "source"


def identity(bundle: Bundle) -> str:
    assert bundle.int8 is not None
    return f"int8 {bundle.int8.graph_sha256}"


def test_int8_and_float32_never_mix(int8_run: Path, source: Path, tmp_path: Path, invoke: Invoke) -> None:
    own = {"int8": identity(open_bundle(int8_run)), "fp32": "fp32"}
    for first, second in (("int8", "fp32"), ("fp32", "int8")):
        out = tmp_path / first
        succeed(invoke("score", int8_run, source, "--out", out, "--precision", first))
        parts = list(out.glob("part-*.parquet"))
        assert {pq.read_schema(part).metadata[b"precision"].decode() for part in parts} == {own[first]}
        before = scores(out)
        refused = invoke("score", int8_run, source, "--out", out, "--precision", second)
        assert refused.exit_code == 1
        said = f"holds scores with another precision ({own[first]} there, {own[second]} here): choose a new --out"
        assert said in refused.stderr
        assert scores(out) == before
        again = succeed(invoke("score", int8_run, source, "--out", out, "--precision", first))
        assert "already complete" in again.stderr
    exact, fast = ([row["probability"] for row in scores(tmp_path / name)] for name in ("fp32", "int8"))
    assert len(exact) == 3
    assert exact != fast
    assert exact == pytest.approx(fast, abs=0.2)


def test_a_file_of_int8_scores_is_not_that_of_float32(
    int8_run: Path, source: Path, tmp_path: Path, invoke: Invoke
) -> None:
    out = tmp_path / "scores.parquet"
    succeed(invoke("score", int8_run, source, "--out", out, "--precision", "int8"))
    assert pq.read_schema(out).metadata[b"precision"].decode() == identity(open_bundle(int8_run))
    assert "already complete" in succeed(invoke("score", int8_run, source, "--out", out, "--precision", "int8")).stderr
    assert invoke("score", int8_run, source, "--out", out).exit_code == 1


def test_int8_travels_with_a_copy_of_the_model(int8_run: Path, source: Path, tmp_path: Path, invoke: Invoke) -> None:
    model = shutil.copytree(int8_run / "model", tmp_path / "model")
    succeed(invoke("score", model, source, "--out", tmp_path / "out", "--precision", "int8"))


def test_int8_without_a_graph_is_refused(bundle: Bundle, source: Path, tmp_path: Path, invoke: Invoke) -> None:
    refused = invoke("score", bundle.folder, source, "--out", tmp_path / "out", "--precision", "int8")
    assert refused.exit_code == 1
    assert "has no int8 graph: run `brainscale quantize RUN` first, or use fp32" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_graph_that_was_checked_with_another_threshold_is_refused(int8_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(int8_run, tmp_path / "run"))
    edit_threshold(run / "model", 0.25)
    edited = open_bundle(run, allow_edited=True)
    with pytest.raises(BundleError, match=r"was checked with another model\.json"):
        engines.require_int8(edited)
    assert engines.read_network(edited, EngineOptions(name="onnx"))


def test_predict_in_int8_says_so(int8_run: Path, source: Path, invoke: Invoke) -> None:
    arguments = ("predict", int8_run, source / "0.png", "--json")
    (exact,) = json.loads(succeed(invoke(*arguments)).stdout)
    (fast,) = json.loads(succeed(invoke(*arguments, "--precision", "int8")).stdout)
    assert fast.pop("precision") == identity(open_bundle(int8_run))
    assert exact.keys() == fast.keys()
    assert 0 < abs(exact["probability"] - fast["probability"]) < 0.2


def test_int8_runs_on_a_cpu_with_onnx_runtime() -> None:
    assert resolve_engine(EngineOptions(precision="int8"), 1) == EngineOptions(name="onnx", precision="int8")
    for options in (EngineOptions(name="torch", precision="int8"), EngineOptions(precision="int8", compiled=True)):
        with pytest.raises(UsageError, match="int8 needs ONNX Runtime"):
            resolve_engine(options, 0)


@pytest.mark.parametrize(
    ("options", "instructions", "note"),
    [
        (EngineOptions(), set(), None),
        (EngineOptions(precision="bf16"), {"avx512_bf16"}, "--precision bf16 without a GPU: torch"),
        (EngineOptions(precision="bf16"), {"amx_bf16"}, None),
        (EngineOptions(compiled=True), {"amx_bf16"}, "--compile without a GPU: torch"),
        (EngineOptions(precision="bf16", compiled=True), set(), "--precision bf16 and --compile without a GPU"),
        (EngineOptions(precision="int8"), {"avx512_vnni"}, None),
        (EngineOptions(precision="int8"), {"avx2"}, "no instructions for int8"),
    ],
)
def test_what_is_slower_on_this_cpu_is_said(
    options: EngineOptions, instructions: set[str], note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "read_cpu_instructions", lambda: frozenset(instructions))
    said = describe_slow_choice(resolve_engine(options, 0))
    assert (note is None and said is None) or (said is not None and note is not None and note in said)
    if options.precision != "int8":
        assert describe_slow_choice(resolve_engine(options, 1)) is None
