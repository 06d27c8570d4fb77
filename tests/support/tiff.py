"""TIFF and PNG files of any kind of sample, written by hand."""

import struct
import zlib

import numpy as np


def tiff(
    samples: np.ndarray,
    photometric: int = 1,
    sample_format: int | None = None,
    orientation: int | None = None,
    extra: tuple[int, ...] = (),
    *,
    big: bool = False,
    big_endian: bool = False,
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    deflate: bool = False,
    predictor: int = 1,
    bits: int | None = None,
) -> bytes:
    """A TIFF or BigTIFF of [H, W] or [H, W, samples], in strips of `rows` rows or in tiles, height × width."""
    order = ">" if big_endian else "<"
    samples = samples[..., None] if samples.ndim == 2 else samples
    stored = samples.astype(samples.dtype.newbyteorder(order))
    height, width, count = stored.shape
    layers = [stored[..., [i]] for i in range(count)] if planar else [stored]
    pieces = [piece for layer in layers for piece in _pieces(layer, tile, rows or height)]
    blobs = [_predicted(piece, predictor) for piece in pieces]
    blobs = [zlib.compress(blob) if deflate else blob for blob in blobs]
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits or 8 * samples.dtype.itemsize] * count),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        277: (3, [count]),
        284: (3, [2 if planar else 1]),
        317: (3, [predictor]),
        339: (3, [sample_format or kind] * count),
    }
    if orientation:
        tags[274] = (3, [orientation])
    if extra:
        tags[338] = (3, list(extra))
    if tile:
        tags |= {322: (4, [tile[1]]), 323: (4, [tile[0]])}
    else:
        tags[278] = (4, [rows or height])
    where, lengths = (324, 325) if tile else (273, 279)
    tags |= {where: (4, [0] * len(blobs)), lengths: (4, [len(blob) for blob in blobs])}
    return _laid_out(tags, blobs, where, order, big)


def _pieces(layer: np.ndarray, tile: tuple[int, int] | None, rows: int) -> list[np.ndarray]:
    height, width, _ = layer.shape
    if not tile:
        return [layer[top : top + rows] for top in range(0, height, rows)]
    padded = np.pad(layer, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0)), mode="edge")
    padded = padded.astype(layer.dtype)
    return [
        padded[top : top + tile[0], left : left + tile[1]]
        for top in range(0, height, tile[0])
        for left in range(0, width, tile[1])
    ]


def _predicted(piece: np.ndarray, predictor: int) -> bytes:
    """The bytes of a strip or tile, as differences from the left (2), or of the bytes of floats (3)."""
    height, width, count = piece.shape
    size = piece.dtype.itemsize
    if predictor == 2:
        unsigned = np.dtype(f"u{size}")
        bits = np.ascontiguousarray(piece).view(unsigned.newbyteorder(piece.dtype.byteorder)).astype(unsigned)
        bits[:, 1:] = bits[:, 1:] - bits[:, :-1]
        return bits.astype(unsigned.newbyteorder(piece.dtype.byteorder)).tobytes()
    if predictor == 3:
        highest_first = np.ascontiguousarray(piece.astype(piece.dtype.newbyteorder(">"))).view(np.uint8)
        rows = highest_first.reshape(height, width * count, size).transpose(0, 2, 1).reshape(height, -1).copy()
        rows[:, count:] = rows[:, count:] - rows[:, :-count]
        return rows.tobytes()
    return np.ascontiguousarray(piece).tobytes()


def _laid_out(tags: dict[int, tuple[int, list[int]]], blobs: list[bytes], where: int, order: str, big: bool) -> bytes:
    mark = b"MM" if order == ">" else b"II"
    if big:
        head, inline, entry, start = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16), 8, "HHQ", 16
        end = start + 8 + 20 * len(tags) + 8
    else:
        head, inline, entry, start = mark + struct.pack(f"{order}HI", 42, 8), 4, "HHI", 8
        end = start + 2 + 12 * len(tags) + 4

    def packed(tag: int) -> bytes:
        kind, values = tags[tag]
        return struct.pack(f"{order}{len(values)}{'HI'[kind - 3]}", *values)

    beyond = sum(len(packed(tag)) for tag in tags if len(packed(tag)) > inline)
    starts = np.cumsum([end + beyond, *(len(blob) for blob in blobs)]).tolist()
    tags[where] = (4, starts[: len(blobs)])
    body, outside = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags)), b""
    for tag in sorted(tags):
        raw = packed(tag)
        body += struct.pack(f"{order}{entry}", tag, tags[tag][0], len(tags[tag][1]))
        if len(raw) > inline:
            body += struct.pack(f"{order}{'Q' if big else 'I'}", end + len(outside))
            outside += raw
        else:
            body += raw.ljust(inline, b"\0")
    return head + body + bytes(8 if big else 4) + outside + b"".join(blobs)


def png16(samples: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of 16 bits: [H, W] grey, or [H, W, 2 to 4] with alpha or colours; each row with another filter."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, count = samples.shape
    raw = samples.astype(">u2").tobytes()
    nbytes, pixel = width * count * 2, count * 2
    rows = np.frombuffer(raw, np.uint8).reshape(height, nbytes).astype(int)
    lines = []
    for y in range(height):
        up = rows[y - 1] if y else np.zeros(nbytes, int)
        left, corner = np.r_[np.zeros(pixel, int), rows[y][:-pixel]], np.r_[np.zeros(pixel, int), up[:-pixel]]
        guess = left + up - corner
        order = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)]).argmin(axis=0)
        paeth = np.choose(order, [left, up, corner])
        predicted = [0 * up, left, up, (left + up) // 2, paeth][y % 5]
        lines.append(bytes([y % 5]) + ((rows[y] - predicted) % 256).astype(np.uint8).tobytes())
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(b"".join(lines)), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name.encode() + data + struct.pack(">I", zlib.crc32(name.encode() + data))
        for name, data in parts.items()
    )
