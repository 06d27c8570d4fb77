"""Sidecars of operating systems are skipped rows, and a zip from Windows has folders."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from brainscale.config.data_sections import LimitsConfig, PreprocessConfig
from brainscale.reading.archives import read_members
from brainscale.reading.reader import read_samples
from brainscale.reading.request import ReadRequest
from brainscale.reading.sidecars import is_sidecar
from brainscale.schema import SKIPPED
from tests.support.files import GREY, encoded, tarred, zipped

PNG = encoded(Image.fromarray(GREY), "PNG")
APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + b"\0" * 60
REQUEST = ReadRequest(preprocess=PreprocessConfig(image_size=64))
SIDECARS = {
    "__MACOSX/yes/._1.png": APPLE,
    "__MACOSX/no/._2.png": b"",
    "yes/._1.png": APPLE,
    "yes/.DS_Store": b"\0\0\0\x01Bud1",
    "no/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "desktop.ini": b"[.ShellClassInfo]\r\n",
    "no/Desktop.ini": b"",
    "@eaDir/1.png/SYNO.jpg": PNG,
}


def codes(source: Path) -> dict[str, str | None]:
    return {sample.sample_id: sample.error_code for sample in read_samples(source, REQUEST)}


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_sidecars_in_an_archive_are_skipped_rows(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    (tmp_path / "set").write_bytes(pack({"yes/1.png": PNG, "no/2.png": PNG, "yes/._3.png": PNG, **SIDECARS}))
    found = {name.partition("!")[2]: code for name, code in codes(tmp_path / "set").items()}
    assert found == {"yes/1.png": None, "no/2.png": None, "yes/._3.png": None} | dict.fromkeys(SIDECARS, "sidecar")
    assert "sidecar" in SKIPPED


def test_sidecars_in_a_folder_are_skipped_rows(tmp_path: Path) -> None:
    for name, data in {"yes/1.png": PNG, **SIDECARS}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert codes(tmp_path) == {"yes/1.png": None} | dict.fromkeys(SIDECARS, "sidecar")


@given(st.text(max_size=12), st.binary(max_size=8))
def test_any_name_is_a_sidecar_or_not(name: str, data: bytes) -> None:
    assert is_sidecar(f"a.zip!__MACOSX/{name}", data)
    assert not is_sidecar(f"yes/x{name.replace('/', '').replace('!', '')}.png", data)


def test_a_zip_from_windows_has_folders() -> None:
    """Backslashes between folders, as .NET wrote them before 4.6.1; a folder is an entry that ends in one."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("set\\yes\\", "set\\no\\", "set\\yes\\1.png", "set\\no\\0.png", "mixed/yes\\1.png", "yes/"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, PNG if name.endswith("png") else b"")
    members = read_members(io.BytesIO(out.getvalue()), len(out.getvalue()), LimitsConfig())
    assert [member.path for member in members] == [("set/yes/1.png",), ("set/no/0.png",), ("mixed/yes/1.png",)]
