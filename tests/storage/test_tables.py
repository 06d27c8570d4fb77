"""Tables, models and folders carry the version of their format, and a reader sees a table whole."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale.config.files import load_config
from brainscale.dataset.manifest import read_manifest, write_manifest
from brainscale.errors import BrainscaleError, FormatError, OutputError
from brainscale.models.bundle import Bundle, open_bundle
from brainscale.schema import MANIFEST, METRICS
from brainscale.storage import tables
from brainscale.storage.local import read_success, write_success
from brainscale.storage.tables import KEY, read_table, write_table
from brainscale.training.run_folder import ENVIRONMENT_FILE, RunFolder
from tests.support.tables import manifest

METRIC = {"metric": "accuracy", "value": 0.5, "n": 4}


def metrics(count: int) -> pa.Table:
    return pa.Table.from_pylist([METRIC] * count, schema=METRICS)


def restamp(path: Path, stamp: bytes | None) -> None:
    table = pq.read_table(path)
    metadata = {} if stamp is None else {KEY: stamp}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_a_table_comes_back_with_its_metadata_in_a_folder_that_is_made(tmp_path: Path) -> None:
    table = metrics(3).replace_schema_metadata({"threshold": "0.5"})
    path = tmp_path / "new" / "metrics.parquet"
    write_table(table, path, "metrics")
    read = read_table(path, "metrics")
    assert read.equals(table)
    assert read.schema.metadata[b"threshold"] == b"0.5"
    assert read_table(path, "metrics", ["n"]).column_names == ["n"]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.parquet"]


@pytest.mark.parametrize(
    ("stamp", "reason"),
    [
        (b"metrics 0", "has format 0 of metrics, but this version of brainscale reads format 1"),
        (b"history 1", "is a table of history, not of metrics"),
        (None, "has no format version: an older brainscale or another tool wrote it"),
    ],
)
def test_a_table_of_another_version_is_refused_in_one_line(tmp_path: Path, stamp: bytes | None, reason: str) -> None:
    path = tmp_path / "metrics.parquet"
    write_table(metrics(1), path, "metrics")
    restamp(path, stamp)
    with pytest.raises(FormatError, match=f"^{re.escape(f'{path} {reason}')}") as error:
        read_table(path, "metrics")
    assert "\n" not in str(error.value)


def test_a_manifest_that_another_tool_saved_again_is_read_and_an_older_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    table = manifest([0, 1, 0])
    write_manifest(table, path)
    pq.read_table(path).to_pandas().assign(site="A").to_parquet(path)
    read = read_manifest(path)
    assert read.column_names == [*MANIFEST.names, "site"]
    assert read.select(MANIFEST.names).equals(table)
    restamp(path, b"manifest 0")
    with pytest.raises(FormatError, match="has format 0 of manifest"):
        read_manifest(path)


def test_what_is_no_table_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("not a table")
    for name in ("text.parquet", ""):
        with pytest.raises(OutputError, match="cannot be read as a Parquet file") as error:
            read_table(tmp_path / name, "metrics")
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.parquet", "metrics")


def test_a_table_that_is_replaced_while_it_is_read_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.parquet"
    write_table(metrics(5), path, "metrics")

    class Replaced(pq.ParquetFile):  # type: ignore[misc]
        """Reads the pages only after another process has replaced the file."""

        def read(self, *args: Any, **kwargs: Any) -> pa.Table:
            with monkeypatch.context() as own:
                own.setattr(pq, "ParquetFile", self.__class__.__base__)
                write_table(metrics(7000), path, "metrics")
            return super().read(*args, **kwargs)

    monkeypatch.setattr(tables.pq, "ParquetFile", Replaced)
    assert len(read_table(path, "metrics")) == 5
    monkeypatch.undo()
    assert len(read_table(path, "metrics")) == 7000


def test_a_folder_of_an_older_version_is_refused_in_one_line(tmp_path: Path) -> None:
    write_success(tmp_path, {"rows": 3})
    facts = read_success(tmp_path)
    assert facts is not None
    assert facts["rows"] == 3
    del facts["format"]
    (tmp_path / "_SUCCESS.json").write_text(json.dumps(facts))
    with pytest.raises(FormatError, match=r"was written by another version of brainscale \(0\.1\.0\)") as error:
        read_success(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unfinished_run_of_an_older_version_is_refused(tmp_path: Path) -> None:
    run, config, table = RunFolder(tmp_path / "run"), load_config(), manifest([0, 1])
    run.path.mkdir()
    assert run.start(config, table) is None
    assert run.start(config, table) is None
    facts = json.loads((run.path / ENVIRONMENT_FILE).read_text())
    (run.path / ENVIRONMENT_FILE).write_text(json.dumps({**facts, "format": 0}))
    with pytest.raises(FormatError, match="another version of brainscale"):
        run.start(config, table)


@pytest.mark.parametrize("version", [0, None, 99])
def test_a_model_of_another_version_is_refused(bundle: Bundle, tmp_path: Path, version: int | None) -> None:
    shutil.copytree(bundle.folder, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    facts = json.loads(path.read_text()) | {"format": version}
    path.write_text(json.dumps({name: value for name, value in facts.items() if value is not None}))
    with pytest.raises(BrainscaleError, match=f"has model format {version}") as error:
        open_bundle(tmp_path / "model")
    assert "\n" not in str(error.value)
