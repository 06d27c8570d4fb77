"""The same index or split again keeps the manifest, unless something that it depends on changed. No Ray."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from brainscale.config.sections import Config
from brainscale.dataset.indexer import write_index
from tests.support.images import write_image
from tests.support.runs import Invoke, succeed

KEPT = "is complete already"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number, name in enumerate(("no/0.png", "no/1.png", "yes/0.png", "yes/1.png")):
        write_image(tmp_path / "scans" / name, number)
    return tmp_path / "scans"


@pytest.fixture
def index(scans: Path, tmp_path: Path) -> Callable[..., bool]:
    """Index the scans and return whether the manifest was kept."""

    def run(**options: object) -> bool:
        notices: list[str] = []
        out = str(options.pop("out", tmp_path / "m.parquet"))
        write_index([str(scans)], out, Config(), on_notice=notices.append, **options)  # type: ignore[arg-type]
        return any(KEPT in text for text in notices)

    return run


@pytest.mark.parametrize("form", ["m.parquet", "m/"])
def test_nothing_new_keeps_it(index: Callable[..., bool], tmp_path: Path, form: str) -> None:
    out = f"{tmp_path}/{form}"
    assert not index(out=out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert index(out=out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def _add(scans: Path) -> None:
    write_image(scans / "yes" / "2.png", 9)


def _remove(scans: Path) -> None:
    (scans / "yes" / "1.png").unlink()


def _grow(scans: Path) -> None:
    with (scans / "yes" / "1.png").open("ab") as file:
        file.write(b"more")


def _touch(scans: Path) -> None:
    os.utime(scans / "yes" / "1.png", ns=(1, 1))


def _rename(scans: Path) -> None:
    shutil.move(scans / "yes" / "1.png", scans / "no" / "2.png")


@pytest.mark.parametrize("change", [_add, _remove, _grow, _touch, _rename])
def test_a_change_of_the_sources_is_read(
    index: Callable[..., bool], scans: Path, change: Callable[[Path], None]
) -> None:
    assert not index()
    change(scans)
    assert not index()
    assert index()


def test_other_shards_are_made(index: Callable[..., bool], tmp_path: Path) -> None:
    out = f"{tmp_path}/m/"
    assert not index(out=out, shard_rows=2)
    assert index(out=out, shard_rows=2)
    assert not index(out=out, shard_rows=3)


def test_an_error_that_may_be_gone_is_read_again(index: Callable[..., bool], scans: Path) -> None:
    """As that of a link whose target is not mounted: the link itself stays as it is."""
    (scans / "yes" / "2.png").symlink_to(scans / "later.png")
    assert not index()
    assert not index()


@pytest.mark.parametrize("form", ["m.parquet", "m/"])
def test_an_output_in_the_source_is_no_sample(scans: Path, form: str) -> None:
    out, notices = f"{scans}/{form}", []
    for _ in range(2):
        result = write_index([str(scans)], out, Config(), on_notice=notices.append)
        assert (result.summary.files, result.summary.errors) == (4, {})
    assert any(KEPT in text for text in notices)


def test_overwrite_reads_again(index: Callable[..., bool]) -> None:
    assert not index()
    assert not index(overwrite=True)


def test_a_change_of_the_label_file_is_read(index: Callable[..., bool], tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("sample_id,label\nno/0.png,no\nyes/0.png,yes\n")
    assert not index(labels=str(table))
    assert index(labels=str(table))
    table.write_text("sample_id,label\nno/0.png,yes\nyes/0.png,yes\n")
    assert not index(labels=str(table))


def test_another_key_is_read(index: Callable[..., bool], tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("1" * 64)
    assert not index(patient_key=str(key))
    assert index(patient_key=str(key))
    key.write_text("2" * 64)
    assert not index(patient_key=str(key))


def test_the_command_prints_what_it_printed_then(invoke: Invoke, scans: Path, tmp_path: Path) -> None:
    arguments = ("index", scans, "--out", tmp_path / "m.parquet", "--json")
    first, again = (succeed(invoke(*arguments)) for _ in range(2))
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert KEPT in again.stderr
    assert KEPT not in first.stderr


def test_the_same_split_again_is_kept(index: Callable[..., bool], invoke: Invoke, scans: Path, tmp_path: Path) -> None:
    manifest, out = tmp_path / "m.parquet", tmp_path / "split.parquet"
    index(out=str(manifest))
    split = ("split", manifest, "--out", out, "--folds", "2", "--json")
    first = succeed(invoke(*split))
    before = out.read_bytes()
    again = succeed(invoke(*split))
    assert "was already complete: nothing to do" in again.stderr
    assert (json.loads(again.stdout), out.read_bytes()) == (json.loads(first.stdout), before)
    assert "already complete" not in succeed(invoke(*split, "--overwrite")).stderr
    _add(scans)
    index(out=str(manifest))
    changed = succeed(invoke(*split))
    assert "already complete" not in changed.stderr
    assert json.loads(changed.stdout)["samples"] == 5


def test_a_split_of_a_split_is_remarked_on(invoke: Invoke, index: Callable[..., bool], tmp_path: Path) -> None:
    manifest, one, two = (tmp_path / name for name in ("m.parquet", "one.parquet", "two.parquet"))
    index(out=str(manifest))
    assert "is split already" not in succeed(invoke("split", manifest, "--folds", "2", "--out", one)).stderr
    assert (
        f"Note: {one} is split already, and is split anew."
        in succeed(invoke("split", one, "--folds", "2", "--out", two)).stderr
    )
    assert (
        "is split already"
        not in succeed(invoke("split", one, "--folds", "2", "--keep", one, "--out", two, "--overwrite")).stderr
    )
