"""Draw heatmaps over planes, with a colour scale and a caption, and write them as PNG files with a table."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from brainscale import progress
from brainscale.models.bundle import Bundle, mark_edited
from brainscale.models.explained_score import score_of_engine
from brainscale.models.faithfulness import MeasuredHeatmap, find_peak, measure_beside_random
from brainscale.models.head_mask import find_head_mask
from brainscale.models.heatmaps import compute_heatmap_batches, load_cpu_engine, name_heatmap_method
from brainscale.storage.local import make_folder, replacing
from brainscale.storage.tables import write_table

COLOURS = "viridis"
"""Colour map of the overlay: readable for the colour-blind, and without white, the colour of bright tissue."""
OPACITY = 0.6
MIN_SIDE = 192
"""Smallest side of a plane in a picture, pixels; smaller planes are enlarged by a whole factor."""
GAP, SCALE_WIDTH, TICKS_WIDTH, CAPTION_HEIGHT, TEXT_SIZE = 8, 10, 18, 20, 12  # pixels
BACKGROUND, TEXT, WARNING = (0, 0, 0), (200, 200, 200), (255, 190, 90)
OUTSIDE = "peak outside the head"
NO_EVIDENCE = "no evidence for a tumour"
COLUMNS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # name of the picture: the plane, and the plane with its heatmap
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("probability", pa.float32()),  # of a tumour: 1 − P(first class)
        pa.field("method", pa.string(), nullable=False),  # occlusion, rise, integrated gradients, cam, hirescam, …
        pa.field("peak_in_head", pa.bool_()),  # whether the hottest pixel lies in the head; null if nothing is hot
        pa.field("deletion", pa.float32()),  # area under the deletion curve: small if the heatmap is faithful
        pa.field("insertion", pa.float32()),  # area under the insertion curve: large if the heatmap is faithful
        pa.field("random_deletion", pa.float32()),  # the same for random blobs inside the head
        pa.field("random_insertion", pa.float32()),
    ]
)


def overlay_heatmap(plane: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Return a plane, uint8 [S, S], with its heatmap, float [S, S] in 0..1, over it: RGB uint8 [S, S, 3]."""
    opacity = OPACITY * heatmap[..., None]
    colours = 255 * colormaps[COLOURS](heatmap)[..., :3]
    return np.asarray(np.rint((1 - opacity) * plane[..., None] + opacity * colours), np.uint8)


def colour_scale(height: int, width: int = SCALE_WIDTH, grey: int = 128) -> np.ndarray:
    """Return the colours of a heatmap from 1 at the top to 0 at the bottom, over a grey level: RGB [height, width, 3].

    Args:
        height: height in pixels.
        width: width in pixels.
        grey: grey level of the tissue below the colours.
    """
    heat = np.repeat(np.linspace(1, 0, height)[:, None], width, 1)
    return overlay_heatmap(np.full((height, width), grey, np.uint8), heat)


def is_peak_in_head(plane: np.ndarray, heatmap: np.ndarray) -> bool | None:
    """Return whether the hottest pixel lies in the head; None if nothing is hot, or no head is found."""
    peak, head = find_peak(heatmap), find_head_mask(plane)
    return None if peak is None or not head.any() else bool(head[peak])


def draw_picture(plane: np.ndarray, heatmap: np.ndarray, method: str) -> Image.Image:
    """Return the plane, the plane under its heatmap, and the colour scale, with a caption below.

    Args:
        plane: uint8 [S, S].
        heatmap: float [S, S] in 0..1.
        method: name of the method, for the caption, which also says whether the hottest pixel is outside the head.
    """
    factor = -(-MIN_SIDE // len(plane))
    side = factor * len(plane)
    panels = (np.stack([plane] * 3, 2), overlay_heatmap(plane, heatmap))
    width = 2 * side + GAP + SCALE_WIDTH + TICKS_WIDTH
    picture = Image.new("RGB", (width, side + CAPTION_HEIGHT), BACKGROUND)
    for number, panel in enumerate(panels):
        large = Image.fromarray(panel).resize((side, side), Image.Resampling.NEAREST)
        picture.paste(large, (number * side, 0))
    picture.paste(Image.fromarray(colour_scale(side)), (2 * side + GAP, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT_SIZE)
    ticks = 2 * side + GAP + SCALE_WIDTH + 4
    draw.text((ticks, 0), "1", TEXT, font, anchor="lt")
    draw.text((ticks, side), "0", TEXT, font, anchor="lb")
    note = describe_peak(plane, heatmap)
    caption, colour = (method, TEXT) if note is None else (f"{method}: {note}", WARNING)
    draw.text((side, side + CAPTION_HEIGHT // 2), caption, colour, font, anchor="lm")
    return picture


def describe_peak(plane: np.ndarray, heatmap: np.ndarray) -> str | None:
    """Return what is wrong with a heatmap: its peak lies outside the head, or nothing is hot; else None."""
    if find_peak(heatmap) is None:
        return NO_EVIDENCE
    return OUTSIDE if is_peak_in_head(plane, heatmap) is False else None


def encode_png(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return png.getvalue()


def write_heatmaps(
    bundle: Bundle, planes: Sequence[np.ndarray], rows: Sequence[Mapping[str, Any]], folder: Path
) -> pa.Table:
    """Write a PNG for each row and the table heatmaps.parquet, and return the table.

    Args:
        bundle: the model that scored the rows.
        planes: one plane for each row, uint8 [S, S].
        rows: rows with sample_id and probability; the files are numbered in their order.
        folder: folder for the pictures; created if it does not exist.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    folder = make_folder(folder)
    method = name_heatmap_method(bundle.info)
    engine = load_cpu_engine(bundle)
    score = score_of_engine(engine)
    batches = compute_heatmap_batches(bundle.info, bundle.weights.read_bytes(), planes, engine)
    heatmaps = (heatmap for batch in batches for heatmap in batch)
    described = []
    pictures = progress.each(zip(rows, planes, heatmaps, strict=True), "drawing heatmaps", len(rows), "pictures")
    for number, (row, plane, heatmap) in enumerate(pictures, 1):
        # a hash, because sample ids may contain the name of a patient
        file = f"{number:03d}-{hashlib.sha256(row['sample_id'].encode()).hexdigest()[:12]}.png"
        with replacing(folder / file) as temporary:
            temporary.write_bytes(encode_png(draw_picture(plane, heatmap, method)))
        measured = measure_beside_random(score, plane, heatmap)
        described.append({**row, "file": file, "method": method, **_columns(measured, plane, heatmap)})
    table = pa.Table.from_pylist(described, schema=COLUMNS)
    write_table(mark_edited(table, bundle), folder / "heatmaps.parquet", "heatmaps")
    return table


def _columns(measured: MeasuredHeatmap, plane: np.ndarray, heatmap: np.ndarray) -> dict[str, Any]:
    return {
        "peak_in_head": is_peak_in_head(plane, heatmap),
        "deletion": measured.own.deletion,
        "insertion": measured.own.insertion,
        "random_deletion": measured.random.deletion,
        "random_insertion": measured.random.insertion,
    }
