"""A real Chromium without a window, spoken to over two pipes in the language of its developer tools."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from .processes import until

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"
).split()


class Chromium:
    """`with Chromium() as browser:` one page, with cookies of its own."""

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="runfcgi-chromium-")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        self.input, self.output, self.kept, self.number = ours_in, ours_out, b"", 0
        # The pipes are its descriptors 3 and 4.
        command = [PROGRAM, *QUIET, f"--user-data-dir={self.profile}", "about:blank"]
        script = 'exec "$@" 3<&%d 4>&%d' % (theirs_in, theirs_out)
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            env={**os.environ, "TMPDIR": self.profile},
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        return self

    def __exit__(self, *_):
        os.close(self.output)
        os.close(self.input)
        self.process.terminate()
        self.process.wait(20)
        until(self._removed, 20, "the last of its processes leaves the profile alone")

    def _removed(self):
        shutil.rmtree(self.profile, ignore_errors=True)
        return not os.path.exists(self.profile)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next(30)
            if reply.get("id") == self.number:
                assert "result" in reply, (method, reply)
                return reply["result"]

    def _next(self, seconds):
        deadline = time.monotonic() + seconds
        while b"\0" not in self.kept:
            ready, _, _ = select.select([self.input], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            piece = os.read(self.input, 1 << 20)
            assert piece, "Chromium has ended"
            self.kept += piece
        message, _, self.kept = self.kept.partition(b"\0")
        return json.loads(message)

    def like(self, width, height, dark=False, phone=False):
        """The size of the window, and what the visitor likes."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone
        )

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def go(self, url, lands_at=None):
        """Opens a page; `lands_at`: where it redirects to."""
        self.call("Page.navigate", url=url)
        self.settle(lands_at or url)

    def settle(self, url=None):
        """Awaits a page that is loaded: this one, if it is named."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                state, here = self.evaluate("[document.readyState, location.href]")
            except AssertionError:
                continue  # between two pages
            if state == "complete" and (url is None or here.split("#")[0] == url):
                return
            time.sleep(0.05)
        raise AssertionError(f"{url} is not loaded")

    def text(self, part="body"):
        """What can be read on the page, or on this part of it, once it is loaded."""
        script = f"(e => document.readyState == 'complete' && e ? e.innerText : null)(document.querySelector('{part}'))"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                text = self.evaluate(script)
            except AssertionError:
                continue  # between two pages
            if text is not None:
                return text
            time.sleep(0.05)
        raise AssertionError(f"no page with {part} is loaded")

    def fill(self, **fields):
        """Types into the fields of the page, by their names."""
        self.evaluate(f"for (const [name, text] of Object.entries({json.dumps(fields)})) document.getElementsByName(name)[0].value = text")

    def click(self, label):
        """Clicks the button with this label, and awaits the page that follows."""
        self.evaluate("window.before = true")
        buttons = "[...document.querySelectorAll('button, [type=submit]')].find(b => (b.innerText || b.value) == '%s')" % label
        clicked = self.evaluate(f"(b => b && !b.disabled && (b.click(), true))({buttons})")
        assert clicked, f"there is no button {label}: {self.text()}"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if not self.evaluate("window.before"):
                    return self.settle()
            except AssertionError:
                pass  # between two pages
            time.sleep(0.05)
        raise AssertionError(f"{label} led nowhere")

    def picture(self, path, whole=True):
        """The page as a PNG; `whole`: also what is below the window."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def overflows(self):
        """By how many pixels the page is wider than its window."""
        return self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def smallest_text(self):
        """The size of the smallest letters, in pixels of the screen."""
        return self.evaluate("""
            Math.min(...[...document.querySelectorAll('body *')].filter(
                e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && e.getClientRects().length
                     && !e.closest('title')
            ).map(e => {
                const svg = e.ownerSVGElement, size = parseFloat(getComputedStyle(e).fontSize);
                return svg ? size * svg.getBoundingClientRect().width / (svg.viewBox.baseVal.width || 1) : size;
            }))
        """)

    def faint_text(self):
        """Texts whose contrast to what is behind them is below what WCAG asks for (AA), each with its contrast."""
        return self.evaluate("(() => {" + CONTRAST + """
            return texts.filter(e => !e.disabled).map(e => [contrast(e), e.innerText.slice(0, 40)]).filter(([ratio]) => ratio < 4.5);
        })()""")

    def small_targets(self, least=44):
        """What is there to be touched and is smaller than a finger."""
        return self.evaluate("""
            [...document.querySelectorAll('a, button, summary, input:not([type=hidden])')].map(
                e => [e.getBoundingClientRect(), e.outerHTML.slice(0, 60)]
            ).filter(([r]) => r.width && (r.width < %d || r.height < %d)).map(([r, e]) => [r.width, r.height, e])
        """ % (least, least))

    def tops(self, *parts):
        """Where these parts of the page begin, in pixels from its top; None for what cannot be seen."""
        return self.evaluate("""
            %s.map(part => document.querySelector(part)).map(
                e => e && e.checkVisibility() ? e.getBoundingClientRect().top + scrollY : null)
        """ % json.dumps(parts))

    def tab(self):
        """Presses the Tab key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)


# The elements with a text of their own, and the contrast of one to the colours behind it.
CONTRAST = """
    const rgba = colour => {
        const numbers = colour.match(/^rgba?\\((.*)\\)$/)[1].split(/[ ,/]+/).map(Number);
        return numbers.length < 4 ? [...numbers, 1] : numbers;
    };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
    const light = colour => colour.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                                  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = e => {
        const below = e.parentElement ? behind(e.parentElement) : [255, 255, 255];
        return over(rgba(getComputedStyle(e).backgroundColor), below);
    };
    const contrast = e => {
        const ground = behind(e), text = over(rgba(getComputedStyle(e).color), ground);
        const [dark, bright] = [light(ground), light(text)].sort((a, b) => a - b);
        return (bright + .05) / (dark + .05);
    };
    const texts = [...document.querySelectorAll('body *')].filter(
        e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && e.checkVisibility() && !e.closest('title'));
"""
