"""The result of a scoring job: counts of a scores folder, and what its `_SUCCESS.json` says."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from brainscale.errors import FAIL_ABOVE, SourceError
from brainscale.schema import SKIPPED

_COUNTS = ("files", "rows", "scored", "errors", "unusual", "architecture")
_TYPED = ("hash_paths", "threshold", "temperature", "classes")
"""Parts of the identity, which is text in the metadata of every part, that are JSON in it."""
_PLACES = ("listing", "parts", "parts_list")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """An amount of work.

    Attributes:
        files: number of files; an archive counts as one.
        nbytes: their size.
        rows: number of rows, as far as it is known.
        errors: number of rows with an error.
    """

    files: int = 0
    nbytes: int = 0
    rows: int = 0
    errors: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


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
    """A complete folder or file of predictions.

    Attributes:
        path: path or address of the folder, or of the single file.
        files: number of files; an archive counts as one.
        rows: number of rows, one for each sample.
        scored: number of rows with a probability.
        errors: error code → number of rows.
        unusual: number of samples that are more unusual than 99 % of the validation samples; None for a model without
            novelty.
        architecture: name of the network.
        identity: what a score depends on: hash of the weights (`model`), preprocessing, threshold, and so on.
        parts: names of the parts; none for a single file.
        listing: name of the listing that the parts follow.
        progress: what this call did; None if the folder was complete already.
        files_not_in_it: number of files of the sources that a complete folder does not hold.
        unit: scan or patient, if a table of these was written.
        units: number of its rows.
        units_file: path or address of that table.
        heatmaps: number of heatmaps, if they were drawn.
        key_file: file that keeps the random key of the hashes; None for a key that was given, or is not here.
    """

    path: str
    files: int
    rows: int
    scored: int
    errors: Mapping[str, int]
    unusual: int | None = None
    architecture: str
    identity: Mapping[str, str]
    parts: Sequence[str] = ()
    listing: str = ""
    progress: ScoringProgress | None = None
    files_not_in_it: int | None = None
    unit: str | None = None
    units: int | None = None
    units_file: str | None = None
    heatmaps: int | None = None
    key_file: str | None = None

    @classmethod
    def from_facts(
        cls, path: str, facts: Mapping[str, Any], parts: Sequence[str], files_not_in_it: int | None = None
    ) -> "Scores":
        """Return the scores that the `_SUCCESS.json` of a folder describes."""
        counts: dict[str, Any] = {name: facts.get(name) for name in _COUNTS}
        others = (*_COUNTS, *_PLACES, "kind", "brainscale", "format")
        identity = {name: value for name, value in facts.items() if name not in others}
        known = {"parts": parts, "listing": facts["listing"], "files_not_in_it": files_not_in_it}
        return cls(path=path, **counts, identity=identity, **known)

    def facts(self) -> dict[str, Any]:
        """Return the contents of `_SUCCESS.json` without the names of the parts."""
        return {**{name: getattr(self, name) for name in _COUNTS}, **self.identity, "listing": self.listing}

    def to_json(self) -> dict[str, Any]:
        """Return the output of `score --json`, without the folder."""
        progress = {} if self.progress is None else asdict(self.progress)
        names = ("files_not_in_it", "unit", "units", "units_file", "heatmaps", "key_file")
        optional = {name: value for name in names if (value := getattr(self, name)) is not None}
        return {
            **self.facts(),
            **{name: _typed(name, text) for name, text in self.identity.items()},
            **progress,
            **optional,
        }

    def require_few_errors(self, share: float = FAIL_ABOVE) -> None:
        """Refuse a result most of which are errors.

        Args:
            share: of the samples that may have an error; files without an image do not count.

        Raises:
            SourceError: more have one. The rows are in the folder all the same.
        """
        errors = {code: count for code, count in self.errors.items() if code not in SKIPPED}
        failed, samples = sum(errors.values()), self.scored + sum(errors.values())
        if failed > share * samples:
            codes = ", ".join(f"{code} {count}" for code, count in errors.items())
            raise SourceError(
                f"{failed} of {samples} sample(s) could not be scored ({codes}), more than --fail-above {share:g} "
                f"allows; all rows are in {self.path}: see its column `error`"
            )


def _typed(name: str, text: str) -> Any:
    """Return a value of the identity with its type."""
    if name in _TYPED:
        return json.loads(text)
    return None if text == "none" else text
