"""index, split, overlap and score over real archives, volumes, object stores and files that kill their decoder."""

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image

from brainscale.errors import SourceError
from brainscale.reading.keys import KEY_VARIABLE
from brainscale.reading.sources import list_files
from brainscale.schema import MANIFEST, PREDICTIONS
from tests.support.files import tarred, zipped
from tests.support.images import write_image
from tests.support.runs import Invoke, scores, succeed
from tests.support.stores import s3_server

pytestmark = pytest.mark.ray
SECRET = "Doe^Jane 1970"  # noqa: S105 (a patient's identifier that must not come out)


def dicom(patient: str, seed: int) -> bytes:
    """One slice of a patient's series, with its own pixels."""
    data = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm")
    data.PatientID = data.PatientName = patient
    data.SeriesInstanceUID = f"1.2.3.{seed}"
    data.PixelData = np.random.default_rng(seed).integers(0, 2000, 64 * 64, np.uint16).tobytes()
    out = io.BytesIO()
    data.save_as(out)
    return out.getvalue()


def archive(folder: Path) -> Path:
    """Scans as they come from a hospital: archives, volumes, series, copies, rubbish."""
    for i in range(4):
        write_image(folder / "yes" / f"{i}.png", seed=i)
        write_image(folder / "no" / f"{i}.jpg", seed=10 + i)
    (folder / "no" / ".hidden").write_bytes((folder / "no" / "0.jpg").read_bytes())
    png = (folder / "yes" / "0.png").read_bytes()
    series = {f"{SECRET}/{i}.dcm": dicom(SECRET, i) for i in range(3)}
    members = {"yes/a.png": png, "notes.txt": b"no image", "#1!.png": b"", **series}
    (folder / "pacs.zip").write_bytes(zipped({**members, "deep.tar": tarred({"no/b.png": png})}))
    (folder / "export.tgz").write_bytes(gzip.compress(tarred({"no/other.dcm": dicom("other", 9)})))
    volume = np.zeros((30, 40, 5), np.int16)
    volume[5:25, 5:35, 1:4] = np.random.default_rng(0).integers(100, 900, (20, 30, 3))
    (folder / "yes" / "volume.nii.gz").write_bytes(gzip.compress(nib.Nifti1Image(volume, np.eye(4)).to_bytes()))
    report = Path(pydicom.__file__).parent / "data" / "test_files" / "test-SR.dcm"
    shutil.copy(report, folder / "report")
    return folder


EXPECTED = {
    "export.tgz!no/other.dcm": None,
    "no/.hidden": None,
    "pacs.zip!%231%21.png": "empty_file",
    f"pacs.zip!{SECRET}/0.dcm": None,
    f"pacs.zip!{SECRET}/1.dcm": None,
    f"pacs.zip!{SECRET}/2.dcm": None,
    "pacs.zip!deep.tar!no/b.png": None,
    "pacs.zip!notes.txt": "unsupported_format",
    "pacs.zip!yes/a.png": None,
    "report": "no_pixels",
    **{f"no/{i}.jpg": None for i in range(4)},
    **{f"yes/{i}.png": None for i in range(4)},
    **{f"yes/volume.nii.gz#{i}": None for i in range(5)},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("archive"))


def test_everything_is_a_row(ray_cluster: None, source: Path, invoke: Invoke, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef")
    out = tmp_path / "m.parquet"
    facts = json.loads(succeed(invoke("index", source, "--out", out, "--patient-key", key, "--json")).stdout)
    table = pq.read_table(out)
    assert table.schema.equals(MANIFEST)
    rows = {row["sample_id"]: row for row in table.to_pylist()}
    assert {i: row["error_code"] for i, row in rows.items()} == EXPECTED
    assert list(rows) == sorted(rows)
    assert (facts["files"], facts["samples"]) == (13, 20)
    assert (facts["skipped"], facts["errors"]) == ({"no_pixels": 1}, {"empty_file": 1, "unsupported_format": 1})
    assert facts["formats"] == {"DICOM": 4, "JPEG": 5, "NIfTI": 5, "PNG": 6}
    assert facts["empty_slices"] == 2
    assert facts["patients"] == 2
    assert facts["groups_with_two_labels"] == 1
    assert rows["pacs.zip!yes/a.png"]["label"] == "tumour"
    assert rows["pacs.zip!deep.tar!no/b.png"]["label"] == "no_tumour"
    same = ["pacs.zip!yes/a.png", "pacs.zip!deep.tar!no/b.png", "yes/0.png"]
    assert len({rows[i]["group"] for i in same}) == 1
    assert len({rows[f"pacs.zip!{SECRET}/{i}.dcm"]["group"] for i in range(3)}) == 1
    assert len({rows[f"yes/volume.nii.gz#{i}"]["group"] for i in range(5)}) == 1
    again = tmp_path / "again.parquet"
    succeed(invoke("index", source, "--out", again, "--patient-key", key))
    assert again.read_bytes() == out.read_bytes()


def test_no_patient_leaves(
    ray_cluster: None, source: Path, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a key of the environment's own")
    out = tmp_path / "m.parquet"
    result = succeed(invoke("index", source, "--out", out, "--hash-paths"))
    table = pq.read_table(out)
    everything = str(table.to_pylist()) + str(table.schema.metadata) + result.output.replace(str(tmp_path), "")
    for secret in ("Doe", "Jane", "1970", "CompressedSamples", str(source), "pacs", "volume.nii"):
        assert secret not in everything
    assert len(set(table["sample_id"].to_pylist())) == len(EXPECTED)
    result = invoke("train", "--data", out, "--out", tmp_path / "run", "--epochs", 1)
    assert "so its images cannot be read: index the source again without --hash-paths" in result.output
    monkeypatch.delenv(KEY_VARIABLE)
    other = tmp_path / "other.parquet"
    assert "random key" in succeed(invoke("index", source, "--out", other)).stderr
    assert not set(pq.read_table(other)["patient"].drop_null().to_pylist()) & set(table["patient"].to_pylist())
    (tmp_path / "short").write_text("1234")
    assert (
        "The patient key has 4 bytes; it needs 16 or more"
        in invoke("index", source, "--out", other, "--patient-key", tmp_path / "short").output
    )


def test_archives_and_volumes_are_scored_row_by_row(
    run: Path,
    source: Path,
    invoke: Invoke,
    tmp_path: Path,
) -> None:
    out = tmp_path / "scores"
    facts = json.loads(succeed(invoke("score", run, source, "--out", out, "--json")).stdout)
    rows = scores(out)
    assert {row["sample_id"]: row["error_code"] for row in rows} == EXPECTED
    assert (facts["files"], facts["rows"], facts["scored"]) == (13, 23, 20)
    assert all(pq.read_schema(part).equals(PREDICTIONS) for part in out.glob("part-*"))
    whole = {part.name: part.read_bytes() for part in out.glob("part-*")}
    next(out.glob("part-*")).unlink()
    (out / "_SUCCESS.json").unlink()
    succeed(invoke("score", run, source, "--out", out))
    assert scores(out) == rows
    assert {part.name: part.read_bytes() for part in out.glob("part-*")} == whole


def test_splits_are_verified_and_overlaps_found(
    ray_cluster: None, source: Path, invoke: Invoke, tmp_path: Path
) -> None:
    one, other, dealt = (tmp_path / f"{name}.parquet" for name in ("one", "other", "dealt"))
    succeed(invoke("index", source, "--out", one))
    copy = tmp_path / "copy"
    write_image(copy / "yes" / "new.png", seed=99)
    shutil.copy(source / "yes" / "1.png", copy / "exact.png")
    Image.open(source / "yes" / "2.png").resize((80, 60)).save(copy / "near.jpg", quality=80)
    succeed(invoke("index", copy, "--out", other))
    found = json.loads(succeed(invoke("overlap", one, other, "--json")).stdout)
    assert [(row["sample_id"], row["kind"], row["other"]) for row in found] == [
        ("exact.png", "exact", "yes/1.png"),
        ("near.jpg", "near", "yes/2.png"),
    ]
    assert "2 of 3 samples" in succeed(invoke("overlap", one, other, "--out", tmp_path / "o.parquet")).stderr
    assert len(pq.read_table(tmp_path / "o.parquet")) == 2
    succeed(invoke("split", one, "--folds", 2, "--seed", 1, "--out", dealt))
    assert "fold" in succeed(invoke("split", "--verify", dealt)).stdout
    table = pq.read_table(dealt).to_pylist()
    at = next(i for i, row in enumerate(table) if row["sample_id"] == "yes/volume.nii.gz#2")
    table[at]["fold"] = 1 - table[at]["fold"]
    pq.write_table(pa.Table.from_pylist(table, schema=MANIFEST), dealt)
    result = invoke("split", "--verify", dealt)
    assert result.exit_code == 1
    assert "are in different folds, for example 'yes/volume.nii.gz#0' in " in result.output


@pytest.fixture
def object_store(ray_cluster: None, tmp_path: Path) -> Iterator[str]:
    """An S3-speaking server on loopback, for this test alone; its address."""
    with s3_server(tmp_path / "moto.log") as port:
        yield f"127.0.0.1:{port}"


def test_an_object_store_is_a_source_like_any_other(
    object_store: str, source: Path, invoke: Invoke, tmp_path: Path
) -> None:
    client = boto3.client("s3", endpoint_url=f"http://{object_store}", region_name="us-east-1")
    client.create_bucket(Bucket="scans")
    for path in sorted(source.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), "scans", f"site 1/{path.relative_to(source).as_posix()}")
    client.put_object(Bucket="scans", Key="site 1/100 %#1!.txt", Body=b"odd name")
    options = f"?endpoint_override={object_store}&scheme=http&region=us-east-1"
    out = tmp_path / "m.parquet"
    succeed(invoke("index", f"s3://scans/site%201{options}", "--out", out))
    table = pq.read_table(out)
    found = dict(zip(table["sample_id"].to_pylist(), table["error_code"].to_pylist(), strict=True))
    assert found == {**EXPECTED, "100 %%231%21.txt": "unsupported_format"}
    assert table["sha256"].null_count == 0
    with pytest.raises(SourceError, match="nowhere.* does not exist"):
        list_files([f"s3://scans/nowhere{options}"])
    with pytest.raises(SourceError, match="the address s3://b/c contains a key or a password"):
        list_files(["s3://b/c?access_key=open&secret_key=sesame"])
