"""Bytes of image files and archives made on the spot."""

import io
import tarfile
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

GREY = np.add.outer(np.arange(48), 3 * np.arange(64)).astype(np.uint8)
"""A gradient, 48 × 64."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image in a format that Pillow writes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def zipped(files: dict[str, bytes], **options: int) -> bytes:
    """A zip archive with an empty folder and the files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **{"compression": zipfile.ZIP_DEFLATED, **options}) as archive:
        archive.mkdir("folder")
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


class OneWay(io.RawIOBase):
    """A stream that cannot seek: zipfile writes sizes behind each member."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def streamed(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED, *, marked: bool = True) -> bytes:
    """A zip archive as a writer makes it that cannot seek, with a mark before the sizes behind each member or not."""
    out = OneWay()
    with zipfile.ZipFile(out, "w", compression) as archive:  # type: ignore[arg-type]
        for name, data in files.items():
            archive.writestr(name, data)
    return bytes(out.data) if marked else bytes(out.data).replace(b"PK\x07\x08", b"")


def tarred(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive with an empty folder and the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))
