"""This thread's decoder: one child, kept from file to file until the thread ends."""

import threading
import weakref
from contextlib import suppress
from dataclasses import replace

from brainscale.errors import SampleError
from brainscale.reading.request import ReadRequest
from brainscale.reading.sandbox import Sandbox
from brainscale.reading.spawning import DECODER


class _Decoder:
    """A decoder and what it was started with; the child ends with this object."""

    def __init__(self, settings: ReadRequest) -> None:
        self.settings = settings
        self.sandbox = Sandbox(DECODER, settings.to_json(), settings.limits.seconds)
        weakref.finalize(self, self.sandbox.close)


_own = threading.local()


def prepare_decoder(request: ReadRequest) -> None:
    """Start this thread's decoder, so that it is up when the first file comes; one that does not start says so then."""
    with suppress(SampleError):
        decoder_of(request).start()


def decoder_of(request: ReadRequest) -> Sandbox:
    """Return the decoder that preprocesses as a request asks for; another's ends. Each question says what to make."""
    settings = replace(request, planes=True, hashes=False)
    decoder: _Decoder | None = getattr(_own, "decoder", None)
    if decoder is None or decoder.settings != settings:
        _own.decoder = decoder = _Decoder(settings)
    return decoder.sandbox
