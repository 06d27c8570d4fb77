"""Comparison of evaluations that are there already; no Ray."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brainscale import compare
from brainscale.errors import BundleError
from brainscale.files import write_success
from brainscale.schema import METRICS


def test_an_evaluation_of_an_older_version_is_to_be_made_again(tmp_path: Path) -> None:
    facts = dict.fromkeys(compare.FACTS, "1")
    for name, lacking in (("new", None), ("old", "flops")):
        (tmp_path / name).mkdir()
        known = {key: value for key, value in facts.items() if key != lacking}
        table = pa.Table.from_pylist([], schema=METRICS).replace_schema_metadata(known)
        pq.write_table(table, tmp_path / name / "metrics.parquet")
        write_success(tmp_path / name, {})
    assert compare.same_samples([str(tmp_path / "new")])
    with pytest.raises(BundleError, match=r"old does not say flops: an older version .* evaluate that model again"):
        compare.compare([str(tmp_path / "old")])
    with pytest.raises(BundleError, match="older version"):
        compare.pairs([str(tmp_path / "new"), str(tmp_path / "old")])
