"""The command index."""

from typing import Any

import click

from brainscale.cli import options
from brainscale.cli.console import handle_errors, load_arrow, print_facts
from brainscale.cli.next_steps import after_index, print_next
from brainscale.logs import notice


@click.command("index")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out",
    required=True,
    metavar="M.parquet",
    help="Manifest to write: a .parquet file, or folder/ for one in shards. "
    "A .csv or .json file is a listing for people and other programs, which no command reads.",
)
@click.option(
    "--labels",
    default="folder",
    show_default=True,
    metavar="folder|FILE.csv",
    help="Source of the labels: folder names, or a CSV file with the columns sample_id and label. "
    "Its other columns are added to the manifest.",
)
@click.option(
    "--id-column",
    metavar="NAME",
    show_default="sample_id, or the only column named file, path, image or the like",
    help="Column of the CSV file with the samples.",
)
@click.option("--label-column", metavar="NAME", show_default="label", help="Column of the CSV file with the labels.")
@click.option(
    "--patient-column",
    metavar="NAME",
    show_default="patient, or the only column named patient_id, subject or the like",
    help="Column of the CSV file with the patients, which are hashed.",
)
@click.option(
    "--patient-from",
    metavar="REGEX",
    help="Regular expression whose group names the patient in a sample id, such as '^([^/]+)/' for its first folder.",
)
@click.option("--config", metavar="NAME|FILE", help="Configuration with the class map, preprocessing and limits.")
@click.option(
    "--patient-key",
    metavar="FILE",
    show_default="$BRAINSCALE_PATIENT_KEY, or a random key",
    help="File with the key of the patient hashes.",
)
@click.option("--hash-paths", is_flag=True, help="Hash file names too; such a manifest cannot be used for training.")
@click.option("--pairs", metavar="P.html", help="Page to write with the pictures of near duplicates, worst first.")
@click.option(
    "--audit", metavar="A.html", help="Page to write with the pictures of doubtful labels and unusual images."
)
@click.option(
    "--audit-run",
    metavar="RUN",
    help="With --audit: run, evaluation or cross-validation whose wrong predictions are shown too.",
)
@options.shard_rows
@options.overwrite
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="as many as there are CPUs; none, without starting Ray, for a small source",
    help="Maximum number of Ray tasks that read at the same time.",
)
@options.shared
@options.address
@options.json
@handle_errors
def index_command(
    sources: tuple[str, ...],
    out: str,
    labels: str,
    id_column: str | None,
    label_column: str | None,
    patient_column: str | None,
    patient_from: str | None,
    config: str | None,
    patient_key: str | None,
    hash_paths: bool,
    pairs: str | None,
    audit: str | None,
    audit_run: str | None,
    shard_rows: int | None,
    overwrite: bool,
    workers: int | None,
    shared: bool,
    address: str | None,
    no_wait: bool,
    as_json: bool,
) -> None:
    """List all samples of the sources in a manifest, with labels, hashes, groups and errors.

    A SOURCE is a folder, a file, a glob, a list of files (@FILE) or an address (s3://, gs://). Archives are read too.

    Example: brainscale index scans/ --out scans.parquet
    """
    load_arrow()
    from brainscale.config import files
    from brainscale.dataset.label_file import LabelColumns
    from brainscale.dataset.outputs import ManifestOutput
    from brainscale.dataset.pages.request import PageRequest
    from brainscale.dataset.subject_names import compile_patient_pattern
    from brainscale.storage.remote import make_absolute

    absolute = options.make_absolute_output(out)
    ManifestOutput(location=absolute, origin="", shard_rows=shard_rows).check_format(listing=True)
    pages = PageRequest(pairs=pairs, audit=audit, audit_run=audit_run)
    pages.check_options(hash_paths=hash_paths)
    columns = LabelColumns(id=id_column, label=label_column, patient=patient_column)
    columns.require_file(labels)
    if patient_from is not None:
        compile_patient_pattern(patient_from)
    request: dict[str, Any] = {
        "sources": [make_absolute(source) for source in sources],
        "out": absolute,
        "labels": labels if labels == "folder" else make_absolute(labels),
        "id_column": id_column,
        "label_column": label_column,
        "patient_column": patient_column,
        "patient_from": patient_from,
        "patient_key": patient_key and make_absolute(patient_key),
        "hash_paths": hash_paths,
        "pairs": pairs and make_absolute(pairs),
        "audit": audit and make_absolute(audit),
        "audit_run": audit_run and make_absolute(audit_run),
        "shard_rows": shard_rows,
        "workers": workers,
        "overwrite": overwrite,
    }
    settings = files.load_config(config, ["resources.shared=true"] if shared else [])
    if address:
        job = {**request, "config": settings.model_dump(mode="json")}
        options.run_as_job(address, no_wait, "index", job, as_json, after_index(out, {"unknown": None}))
    from brainscale.cli.progress import show_progress
    from brainscale.reading.spawning import start_spare

    start_spare()  # it loads beside this process
    with show_progress():
        from brainscale.dataset.indexer import write_index  # here: it takes a second to load

        result = write_index(**request, config=settings, on_notice=notice)
    print_facts({**result.to_json(), "manifest": out}, as_json)
    print_next(after_index(out, result.summary.labels))
