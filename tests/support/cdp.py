"""A page in headless Chromium, driven over the DevTools protocol."""

import asyncio
import base64
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")
SECONDS = 30.0


def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"NOT TESTED: no browser; install one of {', '.join(NAMES)}")
    return found


class Tab:
    """One tab: commands, and the events that came meanwhile."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.numbers, self.session = socket, itertools.count(1), ""
        self.events: list[dict[str, Any]] = []

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        address = {"sessionId": self.session} if self.session else {}
        await self.socket.send_json({"id": number, "method": method, "params": params, **address})
        while True:
            message = await self.receive()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=SECONDS)
        if "method" in message:
            self.events.append(message)
        return message

    async def open(self, path: Path, width: int, height: int, script: bool = True) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Emulation.setScriptExecutionDisabled", value=not script)
        await self.resize(width, height)
        await self.send("Page.navigate", url=path.as_uri())
        while not self.named("Page.loadEventFired"):
            await self.receive()

    async def resize(self, width: int, height: int, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def run(self, code: str) -> Any:
        done = await self.send("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def picture(self, path: Path, *, whole: bool = False) -> Path:
        done = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))
        return path

    def named(self, *methods: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] in methods]


@asynccontextmanager
async def tab(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own, which ends with it; its profile lies in `folder`."""
    profile = folder / "profile"
    command = [browser(), *QUIET, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, way = await _address(profile / "DevToolsActivePort", process)
        url = f"ws://127.0.0.1:{port}{way}"
        async with aiohttp.ClientSession() as client, client.ws_connect(url, max_msg_size=0) as socket:
            opened = Tab(socket)
            target = await opened.send("Target.createTarget", url="about:blank")
            attached = await opened.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
            opened.session = attached["sessionId"]
            yield opened
            opened.session = ""
            await opened.send("Browser.close")
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()


async def _address(file: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Port and path that the browser writes down when it is ready."""
    for _ in range(int(SECONDS * 20)):
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return lines[0], lines[1]
        await asyncio.sleep(0.05)
    raise TimeoutError(f"the browser did not start within {SECONDS:g} s")
