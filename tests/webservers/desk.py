"""What the owner's browser does at the desk of a site behind a real web server."""

import html
import re
from urllib.parse import urlencode

from .client import Client
from .processes import until

SECRET = "a-long-random-secret"
SETTINGS = """
[app]
path = "{project}"
settings = "myproject.settings"
[server]
runtime_dir = "{runtime}"
"""
OWNER = f"""
[owner]
path = "/-/desk"
secret = "{SECRET}"
"""


def log_in(browser, url):
    """The same in a Chromium."""
    browser.go(url)
    browser.fill(secret=SECRET)
    browser.click("Open")


class Owner(Client):
    """The owner's browser."""

    place, secret = "/-/desk", SECRET

    def open(self):
        reply = self.post(self.place, f"secret={self.secret}")
        assert reply.status == 303, reply.text
        return self

    def page(self, rest=""):
        page = self.get(f"{self.place}{rest}")
        assert page.status == 200, page.text
        return page.text

    def words(self, rest=""):
        """What can be read on a page."""
        shown = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", self.page(rest))
        return " ".join(html.unescape(shown).split())

    def send(self, rest, **fields):
        token = re.search(r'name="token" value="([^"]*)"', self.page())[1]
        return self.post(f"{self.place}{rest}", urlencode({"token": token, **fields}))

    def begin(self, task, **fields):
        reply = self.send("/tasks", task=task, **fields)
        assert reply.status == 303, reply.text

    def runs(self):
        return 'http-equiv="refresh"' in self.page("/tasks")

    def said(self):
        """The verdict on the last task, and its output."""
        section = re.search(r'(?s)<section class="last">.*?</section>', self.page("/tasks"))
        if not section:
            return None
        verdict = re.search(r'<span class="tag \w+">(.*?)</span>', section[0])[1]
        output = re.search(r'(?s)<pre class="output">(.*?)</pre>', section[0]) or section
        return html.unescape(verdict), html.unescape(re.sub(r"<[^>]*>", "", output[0]))

    def do(self, task, seconds=90, **fields):
        """Begins a task and awaits its end."""
        before = self.said()
        self.begin(task, **fields)
        until(lambda: self.said() != before and not self.runs(), seconds, f"{task} has ended")
        return self.said()
