"""HTML documents that need no network, run no script, and replace no file that brainscale did not write."""

import base64
import hashlib
import os
from pathlib import Path

import jinja2
from markupsafe import Markup

from brainscale.errors import OutputError, UsageError
from brainscale.formatting import format_number
from brainscale.storage.formats import write_file
from brainscale.storage.ownership import require_own
from brainscale.storage.remote import is_address, split_options


def check_location(location: str, option: str, origin: str, *, overwrite: bool = False) -> None:
    """Check that a page can be written to a path or an address.

    Args:
        location: path or address of the page.
        option: option that names it, for the message.
        origin: says which command makes it.
        overwrite: whether to replace another file.

    Raises:
        OutputError: the folder does not exist, or the file exists and this command did not make it.
        StorageError: the object store refuses, or does not answer.
    """
    if not is_address(location) and not Path(location).absolute().parent.is_dir():
        raise OutputError(f"{option} {location}: its folder does not exist; create the folder, or give another path")
    require_own(location, origin, overwrite=overwrite, option=option)
    if not is_address(location) and not os.access(Path(location).absolute().parent, os.W_OK):
        raise OutputError(f"{option} {location} cannot be written (permission denied): give another path")


def check_name(location: str, option: str) -> None:
    """Check that a page is named as one.

    Raises:
        UsageError: the suffix is not .html.
    """
    if not split_options(location)[0].lower().endswith((".html", ".htm")):
        raise UsageError(f"{option} {location} is no HTML file: give a name that ends with .html")


def write_document(location: str, template: str, origin: str, **contents: object) -> None:
    """Render a template and write it whole or not at all.

    Args:
        location: path or address of the page.
        template: name of a template in this folder.
        origin: says which command makes it; the content of `<meta name="generator">`.
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
        generator=origin,
        **contents,
    )
    write_file(text.encode("utf-8", "backslashreplace"), location)
