"""The manifest that a command writes: its format, whose it is, and how it is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from brainscale.config.sections import Config
from brainscale.dataset.manifest import (
    count_values,
    open_manifest_shards,
    read_manifest,
    without_signatures,
    write_either_form,
)
from brainscale.errors import MENDED_IN_PLACE, BrainscaleError, UsageError
from brainscale.hashing import file_sha256, fingerprint
from brainscale.reading.keys import PatientKey
from brainscale.reading.sources import SourceFile
from brainscale.schema import FORMATS
from brainscale.storage.formats import (
    CSV,
    FOLDER,
    JSON,
    TABLE,
    format_csv,
    format_json,
    require_format,
    suffix_of,
    write_text,
)
from brainscale.storage.ownership import describe_origin, require_own
from brainscale.storage.remote import is_address
from brainscale.version import __version__

STATE = b"brainscale.sources"
"""Metadata of a manifest that a command wrote: a hash that changes when what it was made from does."""
SECTIONS = {"data", "limits", "split"}
"""Sections of a configuration that a manifest depends on."""


def describe_index(
    sources: Iterable[str], config: Config, key: PatientKey, options: Mapping[str, Any], *, hash_paths: bool
) -> str:
    """Return the origin of a manifest or a page that `index` writes.

    Args:
        sources: paths and addresses.
        config: class names, preprocessing, limits and similarity.
        key: keys the hash where paths are hidden, so that nobody can guess them from it.
        options: other options that change the manifest, as JSON.
        hash_paths: whether paths are hidden.
    """
    sections = {name: getattr(config, name).facts() for name in SECTIONS}
    secret = key.secret.hex() if hash_paths else None
    return describe_origin("index", {"sources": list(sources), "config": sections, "key": secret, **options})


def describe_state(
    files: Iterable[SourceFile], label_file: str | None, key: PatientKey, shard_rows: int | None
) -> str | None:
    """Return a hash that changes when the files change that a manifest is made from; None if that cannot be known.

    Args:
        files: of the sources, with sizes and times.
        label_file: path of the label file, if there is one.
        key: of the hashes; a random one is no part of it.
        shard_rows: of the output.
    """
    if label_file is not None and is_address(label_file):
        return None
    versions = [(file.sample_id, file.uri, file.nbytes, file.modified) for file in files]
    labels = None if label_file is None else file_sha256(Path(label_file))
    secret = None if key.random else key.secret.hex()
    return fingerprint([versions, labels, secret, shard_rows, FORMATS["manifest"], __version__])


def describe_input_state(manifests: Iterable[str]) -> str | None:
    """Return a hash that changes when the manifests change that another one is made from; None where one is no file."""
    if any(is_address(manifest) or not Path(manifest).is_file() for manifest in manifests):
        return None
    return fingerprint([[file_sha256(Path(manifest)) for manifest in manifests], FORMATS["manifest"], __version__])


@dataclass(frozen=True, kw_only=True)
class ManifestOutput:
    """Where a command writes a manifest.

    Attributes:
        location: path or address; its suffix decides the format.
        origin: says which command made it.
        shard_rows: rows of a shard, and of one file at most; by default `SHARD_ROWS`.
    """

    location: str
    origin: str
    shard_rows: int | None = None

    @property
    def is_listing(self) -> bool:
        """Whether it is a listing in CSV or JSON, which no command reads."""
        return suffix_of(self.location) in (CSV, JSON)

    @property
    def shards(self) -> int:
        """Number of shards of the manifest that is there; 0 for one file."""
        there = open_manifest_shards(self.location)
        return 0 if there is None else len(there.shards)

    def check_format(self, *, listing: bool = False) -> None:
        """Check the suffix; the folder of a manifest needs no slash where it is there already.

        Args:
            listing: whether CSV and JSON are allowed too.

        Raises:
            UsageError: it is another one, or a listing is asked for in shards.
        """
        if not is_address(self.location) and Path(self.location).is_dir():
            return
        require_format(self.location, (TABLE, FOLDER, CSV, JSON) if listing else (TABLE, FOLDER))
        if self.is_listing and self.shard_rows is not None:
            raise UsageError(f"--shard-rows needs a manifest, and {self.location} is a listing: remove one of the two")

    def check_owner(self, inputs: Iterable[str | None], *, overwrite: bool) -> None:
        """Check that it may be written; see `require_own`.

        Args:
            inputs: paths and addresses that the command reads.
            overwrite: whether to replace what another command made.

        Raises:
            OutputError: something else is there, or it cannot be written.
            StorageError: the object store does not answer.
        """
        require_own(self.location, self.origin, kind="manifest", overwrite=overwrite, inputs=inputs)

    def refuse_listing(self, files: int) -> None:
        """Refuse a listing of more files than this, whose rows are not in memory together.

        Raises:
            UsageError: the output is a listing.
        """
        if self.is_listing:
            raise UsageError(
                f"--out {self.location}: a listing in CSV or JSON is made in memory, and the sources contain more than "
                f"{files:,} files: name a .parquet file or a folder/"
            )

    def read_unchanged(self, state: str | None) -> pa.Table | None:
        """Return the manifest that is there, if it has this state; None otherwise. `check_owner` knows whose it is.

        One with an error that may be gone when the file is read again is not returned.
        """
        if state is None or self.is_listing:
            return None
        try:
            manifest = read_manifest(self.location)
        except BrainscaleError:
            return None
        is_same = (manifest.schema.metadata or {}).get(STATE) == state.encode()
        return manifest if is_same and MENDED_IN_PLACE.isdisjoint(count_values(manifest, "error_code")) else None

    def write(self, manifest: pa.Table, state: str | None = None) -> int:
        """Write a manifest, or a listing of it without signatures, and return the number of shards; 0 for one file.

        Args:
            manifest: rows sorted by sample_id.
            state: what `describe_state` or `describe_input_state` returned, for `read_unchanged`.

        Raises:
            OutputError: it cannot be written.
            StorageError: the object store refuses, or does not answer.
        """
        if not self.is_listing:
            known = {name: value for name, value in (manifest.schema.metadata or {}).items() if name != STATE}
            manifest = manifest.replace_schema_metadata(known if state is None else {**known, STATE: state.encode()})
            return write_either_form(manifest, self.location, self.shard_rows, origin=self.origin)
        table = without_signatures(manifest)
        text = format_csv(table) if suffix_of(self.location) == CSV else format_json(table)
        write_text(text, self.location, self.origin)
        return 0
