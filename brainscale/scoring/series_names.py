"""Names of series for jobs without a key: the id of its first slice, instead of a keyed hash.

The hashes that files are read with then hold for one job only, and are in no table.
"""

from collections.abc import Mapping

import pyarrow as pa


class SeriesNames:
    """Hash of a series → its name, for the rows of one block in the order in which they come.

    Args:
        known: names of the series that are in other blocks too.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._names = dict(known)

    def name(self, rows: pa.Table) -> pa.Table:
        """Return rows with names in the column `scan`: a series is called by its first sample, unless it is known."""
        pairs = zip(rows["scan"].to_pylist(), rows["sample_id"].to_pylist(), strict=True)
        names = [series and self._names.setdefault(series, sample_id) for series, sample_id in pairs]
        return rows.set_column(rows.column_names.index("scan"), "scan", pa.array(names, pa.string()))
