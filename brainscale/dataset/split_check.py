"""Check that samples that belong together are in one split or fold."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from brainscale.dataset.groups import SplitViolation, find_split_violations
from brainscale.dataset.near_duplicates import SIMILARITY, Map
from brainscale.dataset.splits import SPLITS
from brainscale.errors import ManifestError


@dataclass(frozen=True, kw_only=True)
class SplitCheck:
    """What a check of splits and folds found.

    Attributes:
        verified: the columns that were checked: `split`, `fold`, or both.
        groups: number of groups in the manifest.
        samples_without_signature: number of readable samples for which near duplicates could not be looked for.
        violations: pairs of samples that belong together but are in different splits or folds.
    """

    verified: str
    groups: int
    samples_without_signature: int
    violations: Sequence[SplitViolation] = ()

    def require_intact(self) -> None:
        """Raise an error if samples that belong together are in different splits or folds.

        Raises:
            ManifestError: names the number of pairs and the first.
        """
        if self.violations:
            raise ManifestError(
                f"{len(self.violations)} pair(s) of samples that belong together are in different "
                f"{self.violations[0].column}s, for example {self.violations[0]}: run "
                "`brainscale split --regroup` to make the groups and splits again"
            )


def verify_split(manifest: pa.Table, similarity: float | None = SIMILARITY, run: Map = map) -> SplitCheck:
    """Look for samples that belong together but are in different splits or folds.

    Patients, series, contents and signatures are compared again, whatever the column `group` says.

    Args:
        manifest: samples with splits or folds.
        similarity: minimum similarity of near duplicates; None: near duplicates are not looked for.
        run: applies a function to many arguments, perhaps in parallel.

    Raises:
        ManifestError: the manifest has no splits or an unknown one, or no readable sample.
    """
    assigned = [column for column in ("split", "fold") if manifest[column].null_count < len(manifest)]
    readable = manifest.filter(pc.is_null(manifest["error_code"]))
    require_splits(assigned, pc.unique(manifest["split"].drop_null()).to_pylist(), len(readable))
    return SplitCheck(
        verified=" and ".join(assigned),
        groups=pc.count_distinct(manifest["group"]).as_py(),
        samples_without_signature=readable["signature"].null_count,
        violations=find_split_violations(manifest, similarity, run),
    )


def require_splits(assigned: Sequence[str], splits: Sequence[str], readable: int) -> None:
    """Check that a manifest has splits or folds to verify.

    Args:
        assigned: the columns of `split` and `fold` that have values.
        splits: the distinct values of `split`.
        readable: number of rows without an error.

    Raises:
        ManifestError: the manifest has no splits or an unknown one, or no readable sample.
    """
    if not assigned:
        raise ManifestError("the manifest has neither splits nor folds: run `brainscale split` first")
    if unknown := sorted(set(splits) - set(SPLITS)):
        raise ManifestError(f"unknown split '{unknown[0]}' in the manifest: use {', '.join(SPLITS)}")
    if not readable:
        raise ManifestError("every row of the manifest is an error, so there is nothing to check: index again")
