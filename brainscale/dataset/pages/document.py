"""HTML documents that need no network, run no script, and replace no file that brainscale did not write."""

import base64
import hashlib
import io
import os
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from brainscale.errors import OutputError, UsageError
from brainscale.formatting import format_number
from brainscale.storage.local import replacing
from brainscale.storage.remote import ObjectStore, filesystem_of, is_address, retrying, split_address, split_options

GENERATOR = "brainscale index"
"""Content of `<meta name="generator">`, by which a page is recognised again."""
_MARK = re.compile(rb'<meta name="generator" content="brainscale index">')
_HEAD_NBYTES = 4096  # the mark is among the first bytes of a page


def check_location(location: str, option: str) -> None:
    """Check that a page can be written to a path or an address.

    Args:
        location: path or address of the page.
        option: option that names it, for the message.

    Raises:
        OutputError: the folder does not exist, or the file exists and is no page of this command.
        StorageError: the object store refuses, or does not answer.
    """
    if not is_address(location) and not Path(location).absolute().parent.is_dir():
        raise OutputError(f"{option} {location}: its folder does not exist; create the folder, or give another path")
    try:
        begin = _read_begin(location)
    except FileNotFoundError:
        begin = None
    except OSError as error:
        raise OutputError(f"{option} {location} cannot be read ({error.strerror}): give another path") from None
    if begin is not None and not _MARK.search(begin):
        raise OutputError(f"{option} {location} exists and was not written by `{GENERATOR}`: give another path")
    if not is_address(location) and not os.access(Path(location).absolute().parent, os.W_OK):
        raise OutputError(f"{option} {location} cannot be written (permission denied): give another path")


def check_name(location: str, option: str) -> None:
    """Check that a page is named as one.

    Raises:
        UsageError: the suffix is not .html.
    """
    if not split_options(location)[0].lower().endswith((".html", ".htm")):
        raise UsageError(f"{option} {location} is no HTML file: give a name that ends with .html")


def _read_begin(location: str) -> bytes:
    if not is_address(location):
        with Path(location).open("rb") as file:
            return file.read(_HEAD_NBYTES)
    folder, name = split_address(location)
    filesystem, root = filesystem_of(folder)

    def read() -> bytes:
        with filesystem.open_input_stream(f"{root}/{name}") as stream:
            return bytes(stream.read(_HEAD_NBYTES))

    return retrying(read, location)


def write_document(location: str, template: str, **contents: object) -> None:
    """Render a template and write it whole or not at all.

    Args:
        location: path or address of the page.
        template: name of a template in this folder.
        contents: what it shows; every text is escaped.

    Raises:
        OutputError: the file cannot be written.
        StorageError: the object store refuses, or does not answer.
    """
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainscale", "dataset/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, count="{:,}".format)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    text = environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - our own file
        policy=policy,
        generator=GENERATOR,
        **contents,
    )
    data = text.encode("utf-8", "backslashreplace")
    if is_address(location):
        folder, name = split_address(location)
        ObjectStore(folder).put(name, io.BytesIO(data))
        return
    with replacing(Path(location)) as aside:
        aside.write_bytes(data)
