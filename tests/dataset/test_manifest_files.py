"""The files of a manifest come in order, whole, whatever its shards."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.config.data_sections import PreprocessConfig
from brainscale.dataset.manifest import write_either_form, write_manifest
from brainscale.dataset.manifest_files import walk_manifest
from brainscale.schema import MANIFEST

NAMES = ["a", "a b", 'a"b', "a.png", "a b.png", "b", "c d", "c", "d/a b", "d/a", "e"]


def manifest(files: dict[str, int]) -> pa.Table:
    """Made-up rows: files of one sample, or of several frames or members."""
    rows = []
    for number, (name, samples) in enumerate(files.items()):
        ids = [name] if samples == 0 else [f"{name}{'#!'[number % 2]}{i}" for i in range(samples)]
        rows += [{"sample_id": i, "uri": f"/x/{name}", "nbytes": 10, "sha256": f"{i:0>64}"[:64]} for i in ids]
    return pa.Table.from_pylist(rows, schema=MANIFEST).sort_by("sample_id")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 5), min_size=1), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_shards_give_the_files_of_one_table(tmp_path_factory: object, files: dict[str, int], shard_rows: int) -> None:
    folder = Path(tmp_path_factory.mktemp("m"))  # type: ignore[attr-defined]
    table = manifest(files)
    write_manifest(table, folder / "one.parquet")
    write_either_form(table, f"{folder}/shards/", shard_rows)
    one, several = (list(walk_manifest(str(folder / name), PreprocessConfig())) for name in ("one.parquet", "shards"))
    assert one == several
    assert [file.sample_id for file in one] == sorted(files)
    assert sum(len(file.sample_ids or ()) for file in several) == len(table)
