"""How far down each page of a PDF by Chromium text and pictures reach."""

import re
import zlib

import numpy as np

OBJECT = re.compile(rb"(\d+) 0 obj\n(.*?)\nendobj", re.DOTALL)
NUMBER = r"(-?[\d.]+)"
STEP = re.compile(rf"\bq\n|\bQ\n|{' '.join([NUMBER] * 6)} (cm|Tm)|/\w+ Do\b")


def fill_of_pages(pdf: bytes) -> list[float]:
    """Return for each page the share of its height down to its last text or picture."""
    objects = {int(number): content for number, content in OBJECT.findall(pdf)}
    pages = [content for content in objects.values() if re.search(rb"/Type /Page\b", content)]
    return [_fill(page, objects[int(re.findall(rb"/Contents (\d+) 0 R", page)[0])]) for page in pages]


def _fill(page: bytes, contents: bytes) -> float:
    (height,) = re.findall(rb"/MediaBox \[0 0 [\d.]+ ([\d.]+)\]", page)
    stream = contents[contents.index(b"stream\n") + 7 : contents.rindex(b"\nendstream")]
    position, stack, lowest = np.eye(3), [], float(height)
    for step in STEP.finditer(zlib.decompress(stream).decode("latin-1")):
        if step[0].startswith("q"):
            stack.append(position)
        elif step[0].startswith("Q"):
            position = stack.pop()
        else:
            matrix = np.eye(3)
            if step[7]:
                matrix[:, :2] = np.reshape([float(step[i]) for i in range(1, 7)], (3, 2))
            moved = matrix @ position
            if step[7] == "cm":
                position = moved
            else:  # text, or a picture in the unit square
                lowest = min(lowest, moved[2, 1])
    return 1 - lowest / float(height)
