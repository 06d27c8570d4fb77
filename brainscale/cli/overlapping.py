"""The command overlap."""

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow
from brainscale.cli.next_steps import after_overlap, print_next
from brainscale.cli.similarity import SIMILARITY
from brainscale.logs import notice
from brainscale.progress import announce

if TYPE_CHECKING:
    import pyarrow as pa

    from brainscale.dataset.overlap import ManifestFacts


@click.command("overlap")
@click.argument("training", metavar="A.parquet")
@click.argument("external", metavar="B.parquet")
@SIMILARITY
@click.option("--out", metavar="T.parquet", help="File to write the list to as well: .parquet, .csv, .json or .md.")
@options.overwrite
@options.shared
@options.json
@handle_errors
def overlap_command(
    training: str,
    external: str,
    similarity: float | None,
    out: str | None,
    overwrite: bool,
    shared: bool,
    as_json: bool,
) -> None:
    """List the samples of manifest B that are also in manifest A, as duplicates or near duplicates.

    Use it to check that an external dataset shares no sample with a training dataset.

    Example: brainscale overlap training.parquet external.parquet
    """
    load_arrow()
    from brainscale.dataset.overlap import KINDS, count_overlap, describe_missed_matches, have_one_key
    from brainscale.storage.formats import CSV, JSON, MARKDOWN, TABLE, require_format, write_output
    from brainscale.storage.ownership import describe_origin, require_own
    from brainscale.storage.remote import make_absolute

    inputs = [make_absolute(training), make_absolute(external)]
    origin = describe_origin("overlap", {"inputs": inputs, "similarity": similarity})
    if out:
        require_format(out, (TABLE, CSV, JSON, MARKDOWN))
        require_own(out, origin, kind="overlap", overwrite=overwrite, inputs=inputs)
    from brainscale.cli.progress import show_progress

    with show_progress():
        matches, first, second = _compare_manifests(training, external, similarity, shared)
    if out:
        write_output(matches, out, "overlap", origin)
    for facts, name in ((first, training), (second, external)):
        for text in describe_missed_matches(facts, name):
            notice(text)
    comparable = have_one_key(first.schema, second.schema)
    if not comparable:
        notice(
            "Patients and series were not compared: the manifests were made with different patient keys. To compare "
            "them, index both with the same --patient-key."
        )
    if as_json:
        click.echo(json.dumps(matches.to_pylist(), indent=2))
        print_next(after_overlap(external, len(matches)))
        return
    for row in matches.to_pylist():
        value = f" ({row['similarity']:.3f})" if row["kind"] == "near" else ""
        click.echo(f"{row['sample_id']}  {KINDS[row['kind']]}{value}  {row['other']}")
    if len(matches):
        click.echo()
    counts = count_overlap(matches, second.readable)
    labels = list(counts[-1].labels)
    click.echo("".join([f"{'match':<10}{'samples':>9}{'share':>9}", *(f"{label:>13}" for label in labels)]))
    for count in counts:
        if count.kind in ("series", "patient") and not comparable:
            click.echo(f"{count.kind:<10}{'–':>9}{'–':>9}" + "".join(f"{'–':>13}" for _ in labels))
            continue
        cells = [f"{count.kind:<10}{count.samples:>9}{count.share:>9.1%}"]
        click.echo("".join([*cells, *(f"{count.labels.get(label, 0):>13}" for label in labels)]))
    notice(f"{len(matches)} of {second.samples} samples of {external} are also in {training}")
    print_next(after_overlap(external, len(matches)))


def _compare_manifests(
    training: str, external: str, similarity: float | None, shared: bool
) -> tuple["pa.Table", "ManifestFacts", "ManifestFacts"]:
    """Return what two manifests share, and the facts of each; without their strings if one of them has shards."""
    from brainscale.dataset.manifest import open_as_shards, open_manifest_shards, read_manifest
    from brainscale.dataset.on_ray import open_columns, open_map
    from brainscale.dataset.overlap import ManifestFacts, find_overlap
    from brainscale.dataset.sharded_checks import count_facts, find_shared_samples

    if open_manifest_shards(training) is None and open_manifest_shards(external) is None:
        tables = read_manifest(training), read_manifest(external)
        announce(f"Looking for samples of {training} in {external}")
        with open_map(sum(map(len, tables))) as run:
            return find_overlap(*tables, similarity, run), *map(ManifestFacts.of, tables)
    first, second = open_as_shards(training), open_as_shards(external)
    announce(f"Looking for samples of {training} in {external}")
    with open_columns(first, second, shared=shared) as columns:
        matches = find_shared_samples(columns, first.rows, similarity)
        return matches, *(count_facts(replace(columns, tables=(table,))) for table in (first, second))
