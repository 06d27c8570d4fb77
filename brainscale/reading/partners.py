"""The files beside a file that may be the other one of a NIfTI pair: found by name and opened, but not read, here."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from brainscale.errors import SampleError
from brainscale.reading.sources import UNREACHABLE, open_file
from brainscale.reading.suffixes import PAIRED, suffix_of
from brainscale.storage.remote import is_address

STORE_ERRORS = (UNREACHABLE, "archived", "access_denied")


def suffix_of_file(uri: str) -> str:
    """Return .hdr or .img for a path or address that ends so, as `suffix_of` does for a name."""
    return suffix_of(uri.partition("?")[0] if is_address(uri) else uri)


@contextmanager
def open_partners(uri: str) -> Iterator[list[BinaryIO]]:
    """Open the files that may make a pair with a file, likelier ones first; most files have none.

    Raises:
        SampleError: `store_unreachable`.
    """
    with ExitStack() as stack:
        streams = []
        for partner in _partners_of(uri):
            try:
                streams.append(stack.enter_context(open_file(partner))[0])
            except SampleError as error:
                if error.code in STORE_ERRORS:  # the partner is there
                    raise
        yield streams


def _partners_of(uri: str) -> Iterator[str]:
    path, mark, options = uri.partition("?") if is_address(uri) else (uri, "", "")
    suffix = suffix_of(path)
    if not suffix:
        return
    start = path.lower().rindex(suffix)
    other, compressed = PAIRED[suffix], path[start + 4 :]
    other = other.upper() if path[start + 1 : start + 4].isupper() else other
    for ending in dict.fromkeys((compressed, "", ".gz")):
        yield f"{path[:start]}{other}{ending}{mark}{options}"
