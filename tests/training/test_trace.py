"""Fingerprints of tensors, and the first step where two runs part."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.config.files import load_config
from brainscale.dataset.manifest import write_manifest
from brainscale.errors import SourceError
from brainscale.schema import MANIFEST
from brainscale.storage.local import write_success
from brainscale.training import fingerprints, trace
from brainscale.training.history import write_history
from brainscale.training.run_folder import Run
from brainscale.training.verification import BitComparison, compare_bits
from tests.support import pages
from tests.support.steps import step_row


def fingerprint(tensor: torch.Tensor) -> int:
    (number,) = fingerprints.Fingerprints([tensor]).compute().tolist()
    return int(number)


@given(st.integers(1, 400), st.integers(0, 399), st.integers(0, 31), st.integers(0, 2**30))
@settings(max_examples=200)
def test_any_bit_that_differs_shows(count: int, at: int, bit: int, seed: int) -> None:
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    other = tensor.clone()
    bits = other.view(torch.int32)
    bits[at % count] ^= -(2**31) if bit == 31 else 2**bit
    assert fingerprint(other) != fingerprint(tensor)
    assert fingerprint(tensor.clone()) == fingerprint(tensor)


@pytest.mark.parametrize("chunk", [fingerprints.CHUNK, 60, 50, 7])
def test_places_count(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Also where a tensor is cut into chunks that could change places."""
    monkeypatch.setattr(fingerprints, "CHUNK", chunk)
    tensor = torch.randn(2, 3, 4, 5)
    assert fingerprint(tensor.flip(0)) != fingerprint(tensor)
    assert fingerprint(torch.zeros(3)) != fingerprint(-torch.zeros(3))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 50), st.integers(0, 2**30))
def test_each_tensor_has_its_own_number(sizes: list[int], chunk: int, seed: int) -> None:
    """A change of one tensor, in place, changes its number and no other."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(size, generator=generator) for size in sizes]
    with patch.object(fingerprints, "CHUNK", chunk):
        numbers = fingerprints.Fingerprints(tensors)
    before = numbers.compute()
    changed = seed % len(sizes)
    tensors[changed][seed % sizes[changed]] += 1
    assert (numbers.compute() != before).nonzero().flatten().tolist() == [changed]


def a_run(folder: Path, rows: list[dict[str, object]], seed: int = 42, sha256: str = "aa") -> str:
    folder.mkdir()
    (folder / "config.yaml").write_text(load_config(None, [f"train.seed={seed}"]).to_yaml())
    write_manifest(MANIFEST.empty_table(), folder / "manifest.parquet")
    for epoch in sorted({int(str(r["epoch"])) for r in rows}):
        trace.write_steps([r for r in rows if r["epoch"] == epoch], ["conv.weight", "conv.bias"], folder)
    result = Run(
        path=str(folder),
        samples={},
        left_out={},
        epochs=2,
        best_epoch=2,
        best_val_loss=0.5,
        threshold=0.5,
        threshold_source="fixed",
        weights_sha256=sha256,
        manifest_sha256="m",
        config_sha256="c",
    )
    write_success(folder, result.facts())
    return str(folder)


ROWS = [step_row(1, 1, 5, 6), step_row(1, 2, 7, 8), step_row(2, 1, -9, 10)]


def test_equal_runs(tmp_path: Path) -> None:
    comparison = compare_bits(a_run(tmp_path / "a", ROWS), a_run(tmp_path / "b", ROWS))
    assert comparison == BitComparison(steps=3, difference=None, reasons=())
    assert comparison.to_text() == "bit-equal: all 3 steps and the final weights"


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            [ROWS[0], step_row(1, 2, 7, 9), ROWS[2]],
            "epoch 1, step 2: conv.bias is 8 in the first run, 9 in the second (equal steps before: 1)",
        ),
        (
            [step_row(1, 1, 4, 9), *ROWS[1:]],
            "epoch 1, step 1: conv.weight is 5 in the first run, 4 in the second (equal steps before: 0)",
        ),
        (
            [*ROWS[:2], step_row(2, 1, -9, 10, rate=0.2)],
            "epoch 2, step 1: learning_rate is 0.1 in the first run, 0.2 in the second",
        ),
        (ROWS[:2], "epoch 2, step 1: the first run continues, the second has ended (equal steps before: 2)"),
    ],
)
def test_runs_that_part(tmp_path: Path, other: list[dict[str, object]], text: str) -> None:
    comparison = compare_bits(a_run(tmp_path / "a", ROWS), a_run(tmp_path / "b", other, seed=43))
    assert not comparison.equal
    assert comparison.to_text().startswith(f"the runs differ at {text}")
    assert comparison.reasons == ("train.seed: 42 and 43",)


def test_runs_on_other_hardware_say_so(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "a", ROWS), a_run(tmp_path / "b", ROWS)
    for run, hardware in ((one, "cpu: A"), (other, "cpu: A then cuda: B")):
        write_history([{**row, "hardware": hardware} for row in pages.history(1)], Path(run))
    assert compare_bits(one, other).reasons == ("hardware: cpu: A and cpu: A then cuda: B",)


def test_runs_that_kept_other_weights(tmp_path: Path) -> None:
    comparison = compare_bits(a_run(tmp_path / "a", ROWS), a_run(tmp_path / "b", ROWS, sha256="bb"))
    assert comparison.to_text() == (
        "the runs differ at the end: weights_sha256 is aa in the first run, bb in the second (equal steps before: 3)"
    )


def test_what_is_no_run(tmp_path: Path) -> None:
    run = a_run(tmp_path / "a", ROWS)
    with pytest.raises(SourceError, match=r"is not a run \(it has no config\.yaml\)"):
        compare_bits(run, str(tmp_path))
    with pytest.raises(SourceError, match="has no finished epoch yet"):
        compare_bits(run, a_run(tmp_path / "b", []))
