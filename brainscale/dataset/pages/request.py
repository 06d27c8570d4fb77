"""Which pages to write, checked before anything is read."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.near_duplicates import Map, find_near_duplicates
from brainscale.errors import UsageError
from brainscale.storage.ownership import describe_origin
from brainscale.storage.remote import is_address


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """Pages to write beside a manifest.

    Attributes:
        pairs: path or address of the page of near duplicates; None: not written.
        audit: path or address of the page of doubtful labels and images; None: not written.
        audit_run: run, evaluation or cross-validation whose predictions the latter compares with the labels.
        origin: of the manifest that they are beside; says which command makes them.
        overwrite: whether to replace other files.
    """

    pairs: str | None = None
    audit: str | None = None
    audit_run: str | None = None
    origin: str = ""
    overwrite: bool = False

    @property
    def locations(self) -> dict[str, str]:
        """The pages by the options that name them."""
        return {option: page for option, page in (("--pairs", self.pairs), ("--audit", self.audit)) if page is not None}

    def check_options(self, *, hash_paths: bool) -> None:
        """Check what can be checked without looking at any file.

        Raises:
            UsageError: options exclude each other, or a page has no name of a page.
        """
        if self.audit_run is not None and self.audit is None:
            raise UsageError("--audit-run needs --audit: name the page to write")
        if not self.locations:
            return
        from brainscale.dataset.pages.document import check_name  # here: without pages, nobody needs what draws them

        for option, page in self.locations.items():
            if hash_paths:
                raise UsageError(
                    f"{option} writes a page with file names and pictures, which --hash-paths hides: remove one of them"
                )
            check_name(page, option)
        if len(self.locations) == 2 and self._is_one_file():
            raise UsageError("--pairs and --audit name the same file: give two different paths")

    def refuse(self, files: int) -> None:
        """Refuse pages of a source of more files than this: what draws them needs all samples in memory.

        Raises:
            UsageError: a page is to be written.
        """
        for option in self.locations:
            raise UsageError(
                f"{option} looks at all samples in memory, and the sources contain more than {files:,} files: remove "
                "it, or index fewer files"
            )

    def check_files(self) -> pa.Table | None:
        """Check that the pages can be written, and return the predictions of `audit_run`, if it is given.

        Raises:
            BrainscaleError: a page cannot be written, another file is in its place, or there are no predictions.
        """
        if not self.locations:
            return None
        from brainscale.dataset.pages.document import check_location  # here, as above
        from brainscale.dataset.pages.predictions import read_predictions

        for option, page in self.locations.items():
            check_location(page, option, self._origin(option), overwrite=self.overwrite)
        return None if self.audit_run is None else read_predictions(self.audit_run)

    def write(self, manifest: pa.Table, config: Config, predictions: pa.Table | None, run: Map = map) -> None:
        """Write the pages.

        Args:
            manifest: the samples, with labels, groups and paths.
            config: classes, similarity of near duplicates, window and orientation of slices, and limits.
            predictions: what `check_files` returned.
            run: applies a function to many arguments, perhaps in parallel.

        Raises:
            BrainscaleError: a page cannot be written.
        """
        if not self.locations:
            return
        from brainscale.dataset.pages.audit import write_audit_page  # here, as above
        from brainscale.dataset.pages.pairs import write_pairs_page

        near = find_near_duplicates(manifest, config.split.similarity, run)
        if self.pairs is not None:
            write_pairs_page(manifest, near, self.pairs, config, self._origin("--pairs"))
        if self.audit is not None:
            write_audit_page(manifest, near, self.audit, config, self._origin("--audit"), predictions)

    def _origin(self, option: str) -> str:
        """Return the origin of a page: that of the manifest, the option, and what the page shows besides."""
        run = self.audit_run if option == "--audit" else None
        return describe_origin("index", {"manifest": self.origin, "page": option, "run": run})

    def _is_one_file(self) -> bool:
        first, second = (page if is_address(page) else str(Path(page).resolve()) for page in self.locations.values())
        return first == second
