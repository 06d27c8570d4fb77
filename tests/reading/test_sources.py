"""Folders, files, globs and lists of files become files with ids, in one order."""

import os
import re
import shutil
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainscale.config.data_sections import PreprocessConfig
from brainscale.errors import SourceError
from brainscale.reading.reader import read_samples
from brainscale.reading.repeated_files import refuse_repeated_sources
from brainscale.reading.request import ReadRequest
from brainscale.reading.sample_ids import escape
from brainscale.reading.sources import list_files, walk_files
from brainscale.reading.versions import has_changed
from tests.support.images import write_image

REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64, crop=1.0))


def ids_of(*sources: object) -> list[str]:
    return [file.sample_id for file in list_files([str(source) for source in sources])]


def error_codes(source: str) -> dict[str, str | None]:
    return {sample.sample_id: sample.error_code for sample in read_samples(source, REQUEST)}


def test_every_file_of_a_source_is_listed_in_one_order(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "a/1.jpg", ".hidden/x", "_y", "a/deep/er/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert ids_of(tmp_path) == sorted([".hidden/x", "_y", "a/1.jpg", "a/deep/er/z", "b/2.PNG"])
    assert ids_of(f"{tmp_path}/a/**/*") == ["1.jpg", "deep/er/z"]
    assert ids_of(tmp_path / "_y") == ["_y"]
    assert ids_of(f"file://{tmp_path}/a") == ["1.jpg", "deep/er/z"]


@settings(max_examples=30, deadline=None)
@given(names=st.sets(st.text("ab.-0!%#2/é", min_size=1, max_size=8), max_size=12))
def test_files_come_in_the_order_of_their_ids(names: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("scans")
    for name in names:
        with suppress(OSError):  # a name that is a folder already, or below a file
            path = folder / name.replace("..", "_").strip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    written = {escape(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()}
    assert (ids_of(folder) if written else []) == sorted(written)


def test_walking_a_folder_does_not_hold_all_its_files(tmp_path: Path) -> None:
    for parent in range(40):
        (tmp_path / str(parent)).mkdir()
        for name in range(100):
            (tmp_path / str(parent) / str(name)).touch()
    walk = walk_files([str(tmp_path)])
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk) == 4000
        assert tracemalloc.get_traced_memory()[1] < 200_000  # all files need 1.3 MB
    finally:
        tracemalloc.stop()


def test_odd_names_are_escaped_and_links_to_folders_and_pipes_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    write_image(folder / "a b#1!%21.png")
    shutil.copy(folder / "a b#1!%21.png", os.fsencode(folder) + b"/caf\xe9.png")
    (folder / "broken").symlink_to("nowhere")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    assert error_codes(str(folder)) == {
        "a b%231%21%2521.png": None,
        "broken": "unreadable",
        "caf\\xe9.png": None,
        "folder": "not_a_file",
        "pipe": "not_a_file",
    }


def test_a_file_of_a_list_that_does_not_exist_is_an_error_of_its_own(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        write_image(tmp_path / "s" / name)
    lines = [str(tmp_path / "s" / name) for name in ("b/2.png", "a/1.png", "gone.png")]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n\n")
    assert error_codes(f"@{tmp_path}/list.txt") == {"a/1.png": None, "b/2.png": None, "gone.png": "gone"}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\xff\xfe", "is not a list of files"),
        (b"\n", "holds no files"),
        (b"/scans/a.png\ns3://bucket/b.png\n", "names both paths and addresses"),
        (b"s3://key:secret@bucket/scan\n", "^(?!.*secret).*s3://bucket/scan"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, error: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(SourceError, match=error):
        list_files([f"@{tmp_path}/list.txt"])


def test_a_file_that_changed_since_it_was_listed_has_another_version(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (file,) = list_files([str(tmp_path)])
    assert not has_changed(file)
    (tmp_path / "a").write_bytes(b"22")
    assert has_changed(file)
    (tmp_path / "a").unlink()
    assert not has_changed(file)  # reading it says what is wrong


def test_several_sources_never_share_an_id(tmp_path: Path) -> None:
    for parent in ("p", "q"):
        (tmp_path / parent / "scans").mkdir(parents=True)
        (tmp_path / parent / "scans" / "1").write_bytes(b"1")
    scans = [tmp_path / parent / "scans" for parent in ("p", "q")]
    assert ids_of(*scans) == ["scans/1", "scans~2/1"]
    (tmp_path / "r" / "scans").mkdir(parents=True)
    (tmp_path / "r" / "scans" / "1").write_bytes(b"1")
    assert ids_of(*[folder / "1" for folder in scans], tmp_path / "r") == ["1", "1~2", "r/scans/1"]
    (tmp_path / "p" / "scans" / "scans").write_bytes(b"1")
    assert ids_of(*scans) == ["scans/1", "scans/scans", "scans~2/1"]
    (tmp_path / "p" / "scans" / "scans").unlink()
    (tmp_path / "scans~2").mkdir()
    (tmp_path / "scans~2" / "1").write_bytes(b"1")
    with pytest.raises(SourceError, match="Two files would have the sample id 'scans~2/1'"):
        ids_of(*scans, tmp_path / "scans~2")


def test_no_file_is_two_samples(tmp_path: Path) -> None:
    (tmp_path / "scans" / "yes").mkdir(parents=True)
    (tmp_path / "scans" / "yes" / "1").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    for again in (tmp_path / "scans", f"{tmp_path}/scans/"):
        with pytest.raises(SourceError, match="scans is named twice. Name each source once."):
            ids_of(tmp_path / "scans", again)
    with pytest.raises(SourceError, match=f"link is {tmp_path}/scans again. Name each source once."):
        ids_of(tmp_path / "scans", tmp_path / "link")
    with pytest.raises(SourceError, match=f"scans is {tmp_path}/scans again"):
        ids_of(tmp_path / "scans", (tmp_path / "scans").as_uri())
    for inner in (tmp_path / "scans" / "yes", tmp_path / "scans" / "yes" / "1"):
        with pytest.raises(SourceError, match=f"{inner} lies in {tmp_path}/scans, so its files would be read twice"):
            ids_of(inner, tmp_path / "scans")


def test_no_file_is_two_samples_by_globs_lists_and_links(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    scans, listed = tmp_path / "scans", tmp_path / "list.txt"
    for again in (f"{tmp_path}/s*/*", f"{tmp_path}/link/*", f"{tmp_path}/link/../s*/1"):
        with pytest.raises(SourceError, match=f"names .*1, which is in {scans} too\\. Name each file once\\."):
            ids_of(scans, again)
    for line in (f"{scans}/1", f"{tmp_path}/link/1", f"{scans}/../scans/1", (scans / "1").as_uri()):
        listed.write_text(f"{line}\n")
        with pytest.raises(SourceError, match=f"@{listed} names .*1, which is in {scans} too"):
            ids_of(scans, f"@{listed}")
    listed.write_text(f"{scans}/1\n{tmp_path}/link/1\n")
    with pytest.raises(SourceError, match=f"@{listed} names scans/1, which is the same file as link/1: name it once"):
        ids_of(f"@{listed}")
    with pytest.raises(SourceError, match=r"names .*1, which is the same file as .*1 of .*: name it once"):
        ids_of(f"{tmp_path}/s*/*", f"@{listed}")
    with pytest.raises(SourceError, match=r"s\*/\* is named twice\. Name each source once\."):
        ids_of(f"{tmp_path}/s*/*", f"{tmp_path}/s*/*")


def test_globs_that_share_no_file_are_sources(tmp_path: Path) -> None:
    """Links to files are files of their own, as in a folder: some archives keep equal files once."""
    (tmp_path / "scans" / "yes").mkdir(parents=True)
    (tmp_path / "scans" / "1").write_bytes(b"1")
    (tmp_path / "scans" / "yes" / "2").write_bytes(b"2")
    (tmp_path / "scans" / "yes" / "3").symlink_to(tmp_path / "scans" / "1")
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(f"{tmp_path}/scans/{name}" for name in ("1", "yes/2", "yes/3")))
    assert len(ids_of(f"@{listed}")) == len(ids_of(f"{tmp_path}/scans/*", f"{tmp_path}/scans/*/*")) == 3


def test_addresses_that_hold_each_other_are_refused() -> None:
    for outer, inner in (
        ("s3://b/scans", "s3://b/scans/yes"),
        ("s3://b/scans/", "s3://b/scans/1.png?region=x"),
        ("s3://b/a=1", "s3://b/a%3D1/scans"),
    ):
        with pytest.raises(SourceError, match=f"{re.escape(inner)} lies in {outer}, so its files would be read twice"):
            ids_of(outer, inner)
    with pytest.raises(SourceError, match="s3://b/scans is s3://b/scans/.region=x again"):
        ids_of("s3://b/scans/?region=x", "s3://b/scans")
    refuse_repeated_sources([f"s3://b/scans?endpoint_override={host}" for host in ("one:9000", "two:9000")])


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("{}/nowhere", r"/nowhere does not exist\. Check the path\."),
        ("@{}/nowhere.txt", r"is not a list of files \(No such file or directory\)"),
        ("{}", "holds no files"),
        ("gopher://x/y", "gopher://x/y"),
    ],
)
def test_a_source_that_does_not_exist_or_is_empty_is_refused(tmp_path: Path, source: str, error: str) -> None:
    with pytest.raises(SourceError, match=error):
        list_files([source.format(tmp_path)])
