"""The result of a scoring job: counts of a scores folder, and what its `_SUCCESS.json` says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ScoringProgress:
    """What one call of `score_files` did.

    Attributes:
        rows_now: number of rows written.
        seconds_now: duration in seconds.
        rows_a_second: rows per second.
    """

    rows_now: int
    seconds_now: float
    rows_a_second: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A complete folder of predictions.

    Attributes:
        path: path or address of the folder.
        files: number of files; an archive counts as one.
        rows: number of rows, one for each sample.
        scored: number of rows with a probability.
        errors: error code → number of rows.
        architecture: name of the network.
        identity: what a score depends on: hash of the weights (`model`), preprocessing, threshold, and so on.
        progress: what this call did; None if the folder was complete already.
        files_not_in_it: number of files of the sources that a complete folder does not hold.
        scans: number of rows of the table of scans, if it was written.
        heatmaps: number of heatmaps, if they were drawn.
        key_file: file that keeps the random key of the hashes; None for a key that was given, or is not here.
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
    key_file: str | None = None

    @classmethod
    def from_facts(cls, path: str, facts: Mapping[str, Any], files_not_in_it: int | None = None) -> "Scores":
        """Return the scores that the `_SUCCESS.json` of a folder describes."""
        counts = {name: facts[name] for name in ("files", "rows", "scored", "errors", "architecture")}
        identity = {name: value for name, value in facts.items() if name not in (*counts, "brainscale", "format")}
        return cls(path=path, **counts, identity=identity, files_not_in_it=files_not_in_it)

    def facts(self) -> dict[str, Any]:
        """Return the contents of `_SUCCESS.json`."""
        counts = {name: getattr(self, name) for name in ("files", "rows", "scored", "errors", "architecture")}
        return {**counts, **self.identity}

    def to_json(self) -> dict[str, Any]:
        """Return the output of `score --json`, without the folder."""
        progress = {} if self.progress is None else asdict(self.progress)
        optional = {name: getattr(self, name) for name in ("files_not_in_it", "scans", "heatmaps", "key_file")}
        return {**self.facts(), **progress, **{name: value for name, value in optional.items() if value is not None}}
