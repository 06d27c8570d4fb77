"""The decoder of each thread: one child process, kept from file to file."""

import atexit
import threading
from dataclasses import replace

from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox

DECODER = "brainscale.reading.decoder"  # run by name and never imported here: it loads the libraries of all formats
_decoders: dict[int, tuple[ReadRequest, Sandbox]] = {}  # thread → its decoder


def decoder_of(request: ReadRequest) -> Sandbox:
    """Return this thread's decoder that preprocesses as a request asks for; one for another request ends.

    Each question says what to make.
    """
    settings, thread = replace(request, planes=True, hashes=False), threading.get_ident()
    if thread not in _decoders or _decoders[thread][0] != settings:
        end_decoder()
        _decoders[thread] = settings, Sandbox(DECODER, settings.to_json(), request.limits.seconds)
    return _decoders[thread][1]


def end_decoder() -> None:
    """End this thread's decoder, if it has one: before the thread itself ends."""
    if decoder := _decoders.pop(threading.get_ident(), None):
        decoder[1].close()


@atexit.register
def _end_decoders() -> None:
    while _decoders:
        _decoders.popitem()[1][1].close()
