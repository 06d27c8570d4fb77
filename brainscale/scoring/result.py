"""What a scoring job leaves behind, counted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ScoringProgress:
    """What one call of `score_files` did.

    Attributes:
        rows_now: rows written.
        seconds_now: seconds that they took.
        rows_a_second: rows in a second.
    """

    rows_now: int
    seconds_now: float
    rows_a_second: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A complete folder of predictions.

    Attributes:
        path: the folder, a path or an address.
        files: files scored, archives as one.
        rows: rows, one for each sample.
        scored: rows with a probability.
        errors: error code → rows.
        architecture: name of the network.
        identity: what decides a score: the hash of the weights (`model`), preprocessing, threshold, and so on.
        progress: what this call did; None where the folder was complete before.
        files_not_in_it: files of the sources that a folder complete before does not hold.
        scans: rows of the table of scans, where it was asked for.
        heatmaps: pictures drawn, where they were asked for.
    """

    path: str
    files: int
    rows: int
    scored: int
    errors: Mapping[str, int]
    architecture: str
    identity: Mapping[str, str]
    progress: ScoringProgress | None = None
    files_not_in_it: int | None = None
    scans: int | None = None
    heatmaps: int | None = None

    @classmethod
    def from_facts(cls, path: str, facts: Mapping[str, Any], files_not_in_it: int | None = None) -> "Scores":
        """Return the scores that a folder's `_SUCCESS.json` describes."""
        counts = {name: facts[name] for name in ("files", "rows", "scored", "errors", "architecture")}
        identity = {name: value for name, value in facts.items() if name not in (*counts, "brainscale", "format")}
        return cls(path=path, **counts, identity=identity, files_not_in_it=files_not_in_it)

    def facts(self) -> dict[str, Any]:
        """Return what `_SUCCESS.json` says."""
        counts = {name: getattr(self, name) for name in ("files", "rows", "scored", "errors", "architecture")}
        return {**counts, **self.identity}

    def to_json(self) -> dict[str, Any]:
        """Return what `score --json` prints, besides the folder."""
        progress = {} if self.progress is None else asdict(self.progress)
        optional = {name: getattr(self, name) for name in ("files_not_in_it", "scans", "heatmaps")}
        return {**self.facts(), **progress, **{name: value for name, value in optional.items() if value is not None}}
