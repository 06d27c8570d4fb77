"""moto's server, whose state outlives its process: python lasting_s3.py PORT JOURNAL.

It writes each request that changes something to the journal before it answers, and does all of it again, in that order,
before it listens.
"""

import base64
import io
import json
import sys
import threading
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import FakeMultipart
from werkzeug.serving import run_simple

App = Callable[..., Iterable[bytes]]


class Lasting:
    """A WSGI application that keeps a journal of its changes."""

    def __init__(self, app: App, journal: Path) -> None:
        self._app, self._one_by_one = app, threading.Lock()
        lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]  # a kill may have cut the last one
        for line in whole:
            request = json.loads(line)
            self._change(request["environ"], base64.b64decode(request["body"]), lambda *_: lambda _: None)
        journal.write_bytes(b"".join(whole))
        self._journal = journal.open("a")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._app(environ, start_response)
        length = -1 if environ.get("wsgi.input_terminated") else int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        texts = {name: value for name, value in environ.items() if isinstance(value, str)}
        with self._one_by_one:
            answer = self._change(texts, body, start_response)
            print(
                json.dumps({"environ": texts, "body": base64.b64encode(body).decode()}), file=self._journal, flush=True
            )
        return answer

    def _change(self, texts: dict[str, str], body: bytes, start_response: Callable[..., Any]) -> list[bytes]:
        rest = {"wsgi.version": (1, 0), "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr}
        rest |= {"wsgi.input_terminated": True, "wsgi.multithread": True, "wsgi.multiprocess": False}
        return list(self._app(texts | rest | {"wsgi.run_once": False}, start_response))


def number_uploads() -> None:
    """Give uploads in parts the same ids when they are begun again in the same order."""
    begin, numbers = FakeMultipart.__init__, count()

    def numbered(self: FakeMultipart, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.id = f"upload{next(numbers)}"

    FakeMultipart.__init__ = numbered


if __name__ == "__main__":
    number_uploads()
    app = Lasting(DomainDispatcherApplication(create_backend_app), Path(sys.argv[2]))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=MotoRequestHandler)
