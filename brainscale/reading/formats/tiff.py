"""TIFF of more than 8 bits a sample, or of signed samples, which Pillow wraps, cuts to 8 bits or does not know.

Pillow's libtiff still does the decompression: the strips or tiles of a page become a TIFF of bytes, one row of bytes
for each row of samples, and numpy makes samples of them (TIFF 6.0; predictors of section 14 and of Technical Note 3).
"""

import io
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from brainscale.config.data_sections import LimitsConfig
from brainscale.errors import SampleError
from brainscale.reading.formats.frame import Frame
from brainscale.reading.formats.samples import luminance, opacity_of, upright

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES = 256, 257, 258, 259, 262, 266, 274, 277
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_NBYTES, PLANAR, PREDICTOR, EXTRA_SAMPLES = 273, 278, 279, 284, 317, 338
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_NBYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
READ = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES}
READ |= {STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_NBYTES, PLANAR, PREDICTOR, EXTRA_SAMPLES}
READ |= {TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_NBYTES, SAMPLE_FORMAT}
TYPES = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}  # of a tag's values
COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # sample format → kind of numpy's type; 4 is undefined
NAMES = {"u": "uint", "i": "int", "f": "float"}
COLOURS = {0: 1, 1: 1, 2: 3, 5: 4}  # photometric interpretation → samples: white is zero, black is zero, RGB, CMYK
ASSOCIATED, UNASSOCIATED = 1, 2  # alpha: the colours are multiplied by it already, or not yet


@dataclass(frozen=True)
class Page:
    """One picture of a file.

    Attributes:
        offset: where its directory of tags stands in the file.
        tags: tag → values.
        order: < or >, the order of bytes.
    """

    offset: int
    order: str
    tags: dict[int, np.ndarray] = field(repr=False)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return int(self.tags[tag][0]) if tag in self.tags else default

    def numbers(self, tag: int, which: slice = slice(64)) -> list[int]:
        """Return some values of a tag, which may claim to have any number of them."""
        return self.tags[tag][which].tolist() if tag in self.tags else []

    @property
    def is_deep(self) -> bool:
        """Whether Pillow would not keep the values of the samples."""
        bits, kind = self.number(BITS, 1), KINDS.get(self.number(SAMPLE_FORMAT, 1), "")
        return bits >= 16 or (bits == 8 and kind != "u")


def read_pages(data: bytes, limits: LimitsConfig) -> list[Page]:
    """Read the directories of a TIFF or BigTIFF: those before one that is damaged, and one beyond the limit at most."""
    pages: list[Page] = []
    order, (numbers, entry, start) = "<" if data[:2] == b"II" else ">", _layout(data)
    size, head_nbytes = struct.calcsize(f"<{numbers}"), struct.calcsize(f"<{entry}")
    (offset,) = struct.unpack_from(f"{order}{numbers}", data, start)
    seen = {0}
    while offset not in seen and len(pages) <= limits.frames:
        seen.add(offset)
        try:
            (count,) = struct.unpack_from(f"{order}{'Q' if size == 8 else 'H'}", data, offset)
            begin = offset + (8 if size == 8 else 2)
            (following,) = struct.unpack_from(f"{order}{numbers}", data, begin + count * (head_nbytes + size))
        except struct.error:
            break
        tags: dict[int, np.ndarray] = {}
        for position in range(begin, begin + count * (head_nbytes + size), head_nbytes + size):
            tag, kind, length = struct.unpack_from(f"{order}{entry}", data, position)
            dtype = np.dtype(f"{order}{TYPES.get(kind, 'u1')}")
            place = position + head_nbytes
            if length * dtype.itemsize > size:
                (place,) = struct.unpack_from(f"{order}{numbers}", data, place)
            if tag in READ and kind in TYPES and 0 < length * dtype.itemsize <= len(data) - place:
                tags.setdefault(tag, np.frombuffer(data, dtype, length, place))  # views: a tag may claim the whole file
        pages.append(Page(offset, order, tags))
        offset = following
    return pages


def _layout(data: bytes) -> tuple[str, str, int]:
    """Return how offsets and entries of a directory are packed, and where the first directory's offset stands."""
    return ("Q", "HHQ", 8) if b"+" in data[2:4] else ("I", "HHI", 4)


def is_described(page: Page) -> bool:
    """Tell whether a page names its size and where its pixels are: if so, the file is sound as far as one can see."""
    return (
        page.number(WIDTH, 0) > 0 and page.number(HEIGHT, 0) > 0 and bool({STRIP_OFFSETS, TILE_OFFSETS} & {*page.tags})
    )


def with_first_page(data: bytes, page: Page) -> bytes:
    """Return a file whose first page is another one, for readers that fail at a page before it."""
    numbers, _, start = _layout(data)
    packed = struct.pack(f"{page.order}{numbers}", page.offset)
    return data[:start] + packed + data[start + len(packed) :]


def deep_frame(data: bytes, page: Page, limits: LimitsConfig, number: int | None) -> Frame:
    """Decode a page whose samples are more than 8 bits.

    Raises:
        SampleError: `too_many_pixels`, `empty_image`, `unsupported_format` or `truncated`.
    """
    width, height = page.number(WIDTH, 0), page.number(HEIGHT, 0)
    if width < 1 or height < 1:
        raise SampleError("empty_image", f"an image of {width} × {height} pixels")
    if width * height > limits.pixels:
        raise SampleError("too_many_pixels", f"{width} × {height} pixels exceed limits.pixels = {limits.pixels}")
    dtype, colours = _sample_type(page), COLOURS[page.number(PHOTOMETRIC, 1)]
    samples = upright(_samples(data, page, dtype, width, height), page.number(ORIENTATION, 1))
    grey = luminance(samples[..., :colours])
    return Frame(
        pixels=grey,
        format="TIFF",
        mode=f"{ ({3: 'RGB', 4: 'CMYK'}.get(colours, 'L')) } {NAMES[dtype.kind]}{8 * dtype.itemsize}",
        width=grey.shape[1],
        height=grey.shape[0],
        number=number,
        inverted=page.number(PHOTOMETRIC, 1) == 0,
        opacity=_opacity(samples[..., colours:], page.numbers(EXTRA_SAMPLES)),
    )


def _sample_type(page: Page) -> np.dtype[Any]:
    """Return the type of a sample, in the file's order of bytes, once all else is known to be supported."""
    bits, kinds = set(page.numbers(BITS) or [1]), set(page.numbers(SAMPLE_FORMAT) or [1])
    photometric, samples = page.number(PHOTOMETRIC, 1), page.number(SAMPLES, 1)
    size, kind = bits.pop(), KINDS.get(kinds.pop(), "")
    what = ""
    if bits or kinds or size not in (8, 16, 32, 64) or not kind or (kind == "f" and size == 8):
        what = "samples of this size and format"
    elif photometric not in COLOURS or samples != COLOURS[photometric] + len(page.numbers(EXTRA_SAMPLES)):
        what = f"photometric interpretation {photometric} with {samples} samples a pixel"
    elif photometric == 5 and kind != "u":
        what = "CMYK that is not unsigned"
    elif page.number(COMPRESSION, 1) not in COMPRESSIONS:
        what = f"compression {page.number(COMPRESSION, 1)}"
    elif page.number(PREDICTOR, 1) not in ((1, 2, 3) if kind == "f" else (1, 2)):
        what = f"predictor {page.number(PREDICTOR, 1)}"
    if what:
        raise SampleError("unsupported_format", f"a TIFF of {size} bits with {what}")
    return np.dtype(f"{page.order}{kind}{size // 8}")


def _samples(data: bytes, page: Page, dtype: np.dtype[Any], width: int, height: int) -> np.ndarray:
    """Return the samples of a page, [H, W, samples]."""
    count = page.number(SAMPLES, 1)
    if page.number(PLANAR, 1) != 2 or count == 1:
        return _layer(data, page, dtype, (height, width, count), 0)
    layers = [_layer(data, page, dtype, (height, width, 1), layer) for layer in range(count)]
    return np.concatenate(layers, axis=-1)


def _layer(data: bytes, page: Page, dtype: np.dtype[Any], shape: tuple[int, int, int], layer: int) -> np.ndarray:
    """Return the samples of one plane, or of all of them where they stand pixel by pixel."""
    height, width, count = shape
    is_tiled = TILE_OFFSETS in page.tags
    tile_height = page.number(TILE_HEIGHT if is_tiled else ROWS_PER_STRIP, height)
    tile_width = page.number(TILE_WIDTH, width) if is_tiled else width
    if not (0 < tile_width <= 2 * width + 4096 and tile_height > 0):
        raise SampleError("corrupt", "the size of the tiles makes no sense")
    tile_height = tile_height if is_tiled else min(tile_height, height)
    across, down = -(-width // tile_width), -(-height // tile_height)
    pieces = slice(layer * across * down, (layer + 1) * across * down)
    offsets = page.numbers(TILE_OFFSETS if is_tiled else STRIP_OFFSETS, pieces)
    nbytes = page.numbers(TILE_NBYTES if is_tiled else STRIP_NBYTES, pieces) or [len(data)] * len(offsets)
    if len(offsets) < across * down or len(nbytes) < across * down:
        raise SampleError("truncated", "strips or tiles are missing from the directory of the TIFF")
    row_nbytes, padded = count * dtype.itemsize, across * tile_width if is_tiled else width
    contents = [data[offset : offset + size] for offset, size in zip(offsets, nbytes, strict=True)]
    if page.number(COMPRESSION, 1) == 1:
        plain = _uncompressed(contents, tile_width * row_nbytes, tile_height, across, height)
    else:
        plain = _decompressed(contents, page, padded * row_nbytes, height, tile_width * row_nbytes, tile_height)
    # The differences of a predictor begin anew in each tile.
    tiles = plain.reshape(height, across, tile_width, count, dtype.itemsize)
    values = _undo_predictor(tiles, page.number(PREDICTOR, 1), dtype)
    return values.reshape(height, padded, count)[:, :width]


def _uncompressed(contents: list[bytes], row_nbytes: int, tile_height: int, across: int, height: int) -> np.ndarray:
    """Return the bytes of uncompressed strips or tiles, [H, bytes of a padded row]."""
    plain = np.empty((height, across * row_nbytes), np.uint8)
    for index, content in enumerate(contents):
        top, left = index // across * tile_height, index % across * row_nbytes
        rows = min(tile_height, height - top)
        if len(content) < rows * row_nbytes:
            raise SampleError("truncated", "a strip or tile holds fewer bytes than its pixels need")
        block = np.frombuffer(content, np.uint8, rows * row_nbytes).reshape(rows, row_nbytes)
        plain[top : top + rows, left : left + row_nbytes] = block
    return plain


def _decompressed(
    contents: list[bytes], page: Page, width: int, height: int, tile_width: int, tile_height: int
) -> np.ndarray:
    """Return the bytes of compressed strips or tiles, [H, bytes of a padded row]: Pillow takes them for grey pixels."""
    is_tiled = TILE_OFFSETS in page.tags
    starts = np.cumsum([0, *(len(content) for content in contents)])[:-1].tolist()
    tags: dict[int, list[int]] = {
        WIDTH: [width],
        HEIGHT: [height],
        BITS: [8],
        COMPRESSION: [page.number(COMPRESSION, 1)],
        PHOTOMETRIC: [1],
        FILL_ORDER: [page.number(FILL_ORDER, 1)],
        SAMPLES: [1],
    }
    if is_tiled:
        tags |= {TILE_WIDTH: [tile_width], TILE_HEIGHT: [tile_height], TILE_OFFSETS: starts}
    else:
        tags |= {ROWS_PER_STRIP: [tile_height], STRIP_OFFSETS: starts}
    tags[TILE_NBYTES if is_tiled else STRIP_NBYTES] = [len(content) for content in contents]
    with Image.open(io.BytesIO(_tiff(tags, b"".join(contents))), formats=["TIFF"]) as image:
        return np.asarray(image)


def _tiff(tags: dict[int, list[int]], content: bytes) -> bytes:
    """Return a little-endian TIFF of one page; offsets among the tags count from the beginning of its content."""
    longs = struct.calcsize("<2sHIH") + 12 * len(tags) + 4  # where values of more than one number stand
    start = longs + 4 * sum(len(values) for values in tags.values() if len(values) > 1)
    directory, beyond = b"", b""
    for tag, values in sorted(tags.items()):
        numbers = [value + start for value in values] if tag in (STRIP_OFFSETS, TILE_OFFSETS) else values
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            packed, beyond = struct.pack("<I", longs + len(beyond)), beyond + packed
        directory += struct.pack("<HHI", tag, 4, len(numbers)) + packed
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + directory + bytes(4) + beyond + content


def _undo_predictor(plain: np.ndarray, predictor: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Turn bytes into samples.

    Args:
        plain: uint8 [H, tiles, W of a tile, samples, bytes of a sample].
        predictor: 1 none, 2 differences of samples, 3 differences of the bytes of floats.
        dtype: type of a sample.
    """
    height, tiles, width, count, size = plain.shape
    if predictor == 3:  # each row: first all highest bytes, and so on; differences of bytes, a pixel's samples apart
        differences = plain.reshape(height, tiles, width * size, count)
        planes = np.cumsum(differences, axis=2, dtype=np.uint8).reshape(height, tiles, size, width, count)
        ordered = np.ascontiguousarray(planes.transpose(0, 1, 3, 4, 2))
        return ordered.view(dtype.newbyteorder(">"))[..., 0]
    values = plain.view(dtype)[..., 0]
    if predictor == 2:
        unsigned = np.dtype(f"u{size}")
        bits = values.view(unsigned.newbyteorder(dtype.byteorder)).astype(unsigned)
        return np.cumsum(bits, axis=2, dtype=unsigned).view(dtype.newbyteorder("="))
    return values


def _opacity(extra: np.ndarray, kinds: list[int]) -> np.ndarray | None:
    """Return what the first alpha among the extra samples shows of each pixel; None where it shows all."""
    layer = next((layer for layer, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED)), None)
    if layer is None or layer >= extra.shape[-1]:
        return None
    return opacity_of(extra[..., layer], multiplied=kinds[layer] == ASSOCIATED)
