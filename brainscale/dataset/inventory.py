"""Index sources, write the manifest, and say what is in it: the command `index`, here or on a cluster."""

from collections.abc import Callable, Sequence
from typing import Any

from brainscale.cluster.capacity import require_capacity, require_shared
from brainscale.config.sections import Config
from brainscale.dataset.header_control import header_control, summary
from brainscale.dataset.indexer import index_sources
from brainscale.dataset.manifest import require_readable, write_manifest
from brainscale.reading.pseudonyms import KEY_VARIABLE, read_key


def write_index(
    sources: Sequence[str],
    out: str,
    config: Config,
    *,
    labels: str = "folder",
    patient_key: str | None = None,
    hash_paths: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write the manifest of some sources. Needs a connected Ray.

    Args:
        sources: folders, files, globs, @lists or addresses.
        out: the manifest, a path or an address.
        config: class map, preprocessing and limits.
        labels: `folder`, or a CSV file.
        patient_key: file with the key of the patients' hashes.
        hash_paths: whether the names of files are hashed too.
        say: takes notes for a person.

    Returns:
        manifest (its place), the summary, and the header-only control.

    Raises:
        BrainscaleError: a source, a label file or a key cannot be used, nothing can be read, or there is no CPU to
            read on.
    """
    require_shared([*sources, out], config.resources.shared)
    key = read_key(patient_key)
    if waiting := require_capacity(1, {"CPU": 1.0}):
        say(waiting)
    table = index_sources(sources, config, labels, key=key, hash_paths=hash_paths)
    require_readable(table, " ".join(sources))
    write_manifest(table, out)
    facts = {
        "manifest": out,
        **summary(table),
        "header_only_control": header_control(table, next(iter(config.data.classes))),
    }
    if key.random and (facts["patients"] or hash_paths):
        say(
            "Note: hashes were made with a random key and match no other manifest: "
            f"give --patient-key FILE, or set {KEY_VARIABLE}"
        )
    return facts
