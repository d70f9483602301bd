"""JupyterLab in a headless Chromium, driven through the DevTools protocol with websocket-client, which Jupyter needs too."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TOKEN = "of-a-test"
NOTEBOOK = "[...jupyterapp.shell.widgets('main')][0]"  # JavaScript: the open notebook


def executable() -> str | None:
    """The path of a Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def wait(what: str, true, seconds: float = 120):
    """The first true value that `true()` gives; an AssertionError that says what did not come about in time."""
    end, found = time.monotonic() + seconds, None
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if found := true():
                return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: not within {seconds:.0f} s, last seen {found!r}")


class Page:
    """One page of a browser, 1280 by 800 pixels."""

    def __init__(self, address: str):
        self.numbers = itertools.count(1)
        self.connection = websocket.create_connection(address, suppress_origin=True, timeout=120)
        size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, script: str):
        """The value of a JavaScript expression; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def drag(self, selector: str, dx: float) -> None:
        """Take the middle of the first such element with the mouse, and draw it to the right."""
        x, y = self.middle(selector)
        self._mouse("mousePressed", x, y)
        for part in (0.25, 0.5, 0.75, 1):
            self._mouse("mouseMoved", x + part * dx, y)
        self._mouse("mouseReleased", x + dx, y)

    def click(self, selector: str) -> None:
        self.drag(selector, 0)

    def middle(self, selector: str) -> list[float]:
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")

    def _mouse(self, kind: str, x: float, y: float) -> None:
        buttons = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextlib.contextmanager
def process(command: list[str], log: Path, **how):
    """A process that is ended with the block."""
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **how)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


@contextlib.contextmanager
def lab(notebook: Path, environment: dict[str, str]):
    """JupyterLab with a notebook open, as a `Page`; everything that either program writes is below its folder.

    The page has `jupyterapp`, Lab's application.
    """
    folder = notebook.parent / ".lab"
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false"}')  # no question about it in front of the notebook
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER{name}": str(folder / name.lower()) for name in ("_CONFIG_DIR", "_RUNTIME_DIR")}
    own |= {f"JUPYTERLAB_{name.upper()}_DIR": str(folder / name) for name in ("settings", "workspaces")}
    given = os.environ | own | {"JUPYTER_PREFER_ENV_PATH": "1"} | environment
    server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    server += [
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={notebook.parent}",
        "--ServerApp.port_retries=0",
    ]
    server += ["--LabApp.expose_app_in_browser=True"]
    profile = folder / "profile"
    browser = [executable(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    browser += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with (
        process(server, folder / "lab.log", env=given, cwd=folder),
        process(browser, folder / "browser.log", cwd=folder),
    ):
        base = f"http://127.0.0.1:{port}"
        wait("JupyterLab answers", lambda: urllib.request.urlopen(f"{base}/api?token={TOKEN}", timeout=5).status == 200)
        file = profile / "DevToolsActivePort"
        debugger = wait("the browser's port", lambda: file.exists() and file.read_text().split("\n")[0])
        request = urllib.request.Request(f"http://127.0.0.1:{debugger}/json/new?about:blank", method="PUT")
        page = Page(json.load(urllib.request.urlopen(request, timeout=30))["webSocketDebuggerUrl"])
        page.call("Page.navigate", url=f"{base}/lab/tree/{notebook.name}?token={TOKEN}")
        wait(
            "the notebook is open",
            lambda: page.value(f"globalThis.jupyterapp && {NOTEBOOK}?.context?.isReady === true"),
        )
        idle = f"{NOTEBOOK}.context.sessionContext.session?.kernel?.status === 'idle'"
        wait("the kernel is there", lambda: page.value(idle))
        page.value(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")
        yield page
