"""The table of results, looked up by study, part, row and metric."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from brainscale.evaluation.study.files import StudyFile
from brainscale.evaluation.study.measures import CONTROL, DIFFERENCE, FACT, METRIC, PUBLISHED
from brainscale.evaluation.study.subsets import ALL

Line = dict[str, Any]
"""A row of the table of results."""


class Results:
    """The rows of one study."""

    def __init__(self, table: pa.Table, file: StudyFile) -> None:
        """Index a table of schema RESULTS.

        Args:
            table: the table, perhaps with other studies too.
            file: the study.
        """
        self.file = file
        self._lines: dict[tuple[Any, ...], Line] = {}
        keys = ("part", "row", "condition", "subset", "measure", "metric", "reference")
        for line in table.to_pylist():
            if line["study"] == file.name:
                self._lines[tuple(line[key] for key in keys)] = line

    def metric(self, part: str, row: str, condition: str, metric: str, subset: str = ALL) -> Line | None:
        """Return a metric of a row."""
        return self._lines.get((part, row, condition, subset, METRIC, metric, None))

    def difference(
        self, part: str, row: str, condition: str, metric: str, reference: str, subset: str = ALL
    ) -> Line | None:
        """Return a paired difference."""
        return self._lines.get((part, row, condition, subset, DIFFERENCE, metric, reference))

    def control(self, part: str, row: str, condition: str, reference: str, subset: str = ALL) -> Line | None:
        """Return the AUROC of columns alone, on the test samples of a row."""
        return self._lines.get((part, row, condition, subset, CONTROL, "auroc", reference))

    def fact(self, part: str | None, row: str, condition: str, metric: str) -> Line | None:
        """Return a fact of a row; of a data set where there is no part."""
        return self._lines.get((part, row, condition, ALL, FACT, metric, None))

    def number(self, part: str | None, row: str, condition: str, metric: str) -> float | None:
        """Return the value of a fact."""
        line = self.fact(part, row, condition, metric)
        return None if line is None else line["value"]

    def published(self, part: str, row: str, metric: str) -> float | None:
        """Return a published figure of a row."""
        wanted = (part, row, PUBLISHED, metric)
        lines = (line for key, line in self._lines.items() if (*key[:2], *key[4:6]) == wanted)
        return next((line["value"] for line in lines), None)

    def has_subset(self, part: str, subset: str) -> bool:
        """Return whether a part was measured on a subset of the samples."""
        return any(key[0] == part and key[3] == subset for key in self._lines)

    def facts(self, metric: str) -> Iterator[Line]:
        """Yield a fact of every row that has it."""
        return (line for key, line in self._lines.items() if key[0] is not None and key[4:6] == (FACT, metric))

    def facts_of_data(self, name: str) -> dict[str, float]:
        """Return the numbers that describe a data set; empty where it was not given."""
        return {
            key[5]: line["value"]
            for key, line in self._lines.items()
            if key[:2] == (None, name) and line["value"] is not None
        }
