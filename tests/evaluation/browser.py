"""A real browser without a window, driven by the WebDriver protocol over loopback: no package is needed for it.

Chromium and its driver come with the system (Debian: `apt install chromium chromium-driver`); `Browser.find` says what
is missing. Only what the tests of pages need is here.
"""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Enter": "\ue007", "Tab": "\ue004"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name the protocol gives to references


class Browser:
    """One session; `close` it."""

    @staticmethod
    def find() -> tuple[str, str] | str:
        """(browser, driver), or why there is none."""
        browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        driver = shutil.which("chromedriver")
        if browser is None or driver is None:
            lacking = [what for what, path in (("Chromium", browser), ("chromedriver", driver)) if path is None]
            return f"no {' and no '.join(lacking)} on the PATH (Debian: apt install chromium chromium-driver)"
        return browser, driver

    def __init__(self, browser: str, driver: str, downloads: Path, size: tuple[int, int] = (1200, 900)):
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.session = ""
        try:
            self.address = f"http://127.0.0.1:{self._port()}"
            arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio",
                         f"--window-size={size[0]},{size[1]}", "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
            options = {
                "binary": browser,
                "args": arguments,
                "prefs": {"download.default_directory": str(downloads), "download.prompt_for_download": False},
            }
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.session = f"/session/{made['sessionId']}"
        except BaseException:
            self.close()
            raise

    def _port(self) -> int:
        for line in self.process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return int(found[1])
        raise RuntimeError("chromedriver did not start")

    def _call(self, method: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, address: str) -> None:
        self._call("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of JavaScript that `return`s one."""
        return self._call("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Scroll there and click with the mouse, which fails where something else lies over the element."""
        self.run("document.querySelector(arguments[0]).scrollIntoView({block: 'nearest'})", selector)
        element = self._call("POST", f"{self.session}/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._call("POST", f"{self.session}/element/{element}/click", {})

    def press(self, *keys: str) -> None:
        """Keys, one after the other, to whatever has the focus."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": strokes}]
        self._call("POST", f"{self.session}/actions", {"actions": actions})

    def wait(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """The value of the script once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            if time.monotonic() > end:
                raise TimeoutError(f"after {seconds} s still not: {script}")
            time.sleep(0.1)
        return value

    def resize(self, width: int, height: int) -> None:
        """The size of the page itself; a window has a least width."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
        self.devtools("Emulation.setDeviceMetricsOverride", size)

    def devtools(self, command: str, parameters: dict) -> Any:
        return self._call("POST", f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def complaints(self) -> list[str]:
        """What the console said since the last time: errors of scripts, refused loads."""
        return [
            f"{entry['level']} {entry['message']}"
            for entry in self._call("POST", f"{self.session}/se/log", {"type": "browser"})
        ]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"{self.session}/screenshot")))

    def close(self) -> None:
        try:
            if self.session:
                self._call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(30)
