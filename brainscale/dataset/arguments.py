"""Check `--data` before anything starts: a manifest, or a source with files."""

from pathlib import Path

from brainscale.dataset.manifest import is_manifest, open_manifest_shards, read_manifest, require_no_listing
from brainscale.errors import OutputError
from brainscale.reading.sources import require_sources
from brainscale.storage.remote import is_address
from brainscale.storage.tables import read_table


def require_data(data: str) -> None:
    """Check that data exists, by reading no more than one column of a manifest or the first name of a source.

    Args:
        data: a manifest or a source, by path or address.

    Raises:
        ManifestError: there is no such manifest, or it is something else.
        SourceError: the source does not exist, or holds no files.
        FormatError: a table is of another kind or version.
        StorageError: an object store refuses, or does not answer.
    """
    if not is_manifest(data):
        if Path(data).is_file():
            require_no_listing(data)
        require_sources([data])
    elif is_address(data) or open_manifest_shards(data) is None:
        require_manifest(data)


def require_manifest(path: str) -> None:
    """Check that a file is a manifest, by reading its ids.

    Raises:
        ManifestError: there is no such manifest, or it is something else.
        FormatError: it is of another kind or version.
        StorageError: an object store refuses, or does not answer.
    """
    try:
        table = read_table(path, "manifest", ["sample_id"], unstamped=True)
    except (FileNotFoundError, OutputError):
        read_manifest(path)  # which says what is wrong, or finds a folder of shards in a store
        return
    if "sample_id" not in table.column_names:
        read_manifest(path)
