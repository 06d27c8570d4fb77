"""Numbers of samples for the report: from the files to the samples used, and duplicates among them."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.evaluation.report.page import SampleFlow
from brainscale.reading.sample_ids import IN_FILE
from brainscale.stats.labelled import labelled_rows
from brainscale.training.samples import count_left_out


def count_flow(manifest: pa.Table, rows: pa.Table, predictions: pa.Table) -> SampleFlow:
    """Return the numbers of samples at each step; the excluded ones add up to the difference.

    Args:
        manifest: all samples of the data.
        rows: those of the split that was evaluated.
        predictions: table of schema PREDICTIONS, one row for each of them.
    """
    excluded = Counter[str]()
    if len(rows) < len(manifest):
        evaluated = set(pc.unique(rows["split"]).to_pylist())
        splits = Counter(manifest["split"].drop_null().to_pylist())
        excluded.update({f"{split} split": count for split, count in splits.items() if split not in evaluated})
        excluded.update(count_left_out(manifest))
    excluded.update(predictions["error_code"].drop_null().to_pylist())
    unlabelled = pc.and_(pc.is_null(predictions["error_code"]), pc.is_null(predictions["label"]))
    excluded["no label"] = pc.sum(unlabelled).as_py()
    return SampleFlow(
        steps={
            "files": pc.count_distinct(pc.replace_substring_regex(manifest["sample_id"], IN_FILE, "")).as_py(),
            "samples in the files": len(manifest),
            "samples of this split": len(rows),
            "samples used": len(labelled_rows(predictions)),
        },
        excluded={reason.replace("_", " "): count for reason, count in sorted(excluded.items()) if count},
    )


def count_duplicates(rows: pa.Table) -> dict[str, int]:
    """Return the number of groups and of duplicates among the rows of a manifest that could be read."""
    rows = rows.select(["sha256", "group"])
    readable = rows.filter(pc.is_valid(rows["sha256"]))
    groups = len(pc.unique(readable["group"].drop_null()))
    return {
        "groups (a patient, a series, or duplicates)": groups,
        "samples beyond the first of their group": len(readable) - readable["group"].null_count - groups,
        "byte-identical duplicates": len(readable) - len(pc.unique(readable["sha256"])),
    }
