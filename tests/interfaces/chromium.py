"""A headless Chromium that a test types into, over its debugging pipe."""

import base64
import json
import os
import shlex
import subprocess
import time

from ..reports.browser import chromium


class Browser:
    """One tab of a browser. `complaints` has what a developer's console would show."""

    def __init__(self, folder):
        (reading, self._to), (self._from, writing) = os.pipe(), os.pipe()
        pipes = f" --remote-debugging-pipe about:blank 3<&{reading} 4>&{writing}"
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {shlex.join(chromium(folder))}{pipes}"],
            pass_fds=(reading, writing),
            stderr=subprocess.DEVNULL,
        )
        os.close(reading)
        os.close(writing)
        self._number, self._rest, self._session = 0, b"", {}
        self.complaints = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        made = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": made["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **values):
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(message)
        if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(answer["params"])
        return answer

    def look(self, width, scheme="light"):
        """Show the page at a width, in light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=1000,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression):
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true."""
        end = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.complaints)
            time.sleep(0.05)

    def type(self, text):
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, modifiers=0):
        """Press and release a key."""
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        event = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path):
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._to)
        os.close(self._from)
