"""The owner's desk and the visitor's page in a real browser: on a phone and a desktop, light and dark."""

import json

import pytest

from webservers import picture
from webservers.apache import Apache
from webservers.chromium import PROGRAM, Chromium
from webservers.desk import OWNER, SETTINGS, Owner, log_in
from webservers.processes import until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="this release has no package of Chromium")
WINDOWS = {"small phone": (320, 568, True), "phone": (390, 844, True), "desktop": (1280, 900, False)}
LIKES = [(name, dark) for name in WINDOWS for dark in (False, True)]
READABLE = 12  # pixels


def like(browser, window, dark):
    width, height, phone = WINDOWS[window]
    browser.like(width, height, dark, phone)


def must_be_readable(browser, window, dark):
    """Nothing is cut off, no text is too small or too faint, and on a phone a finger hits what it aims at."""
    assert (brightness(browser) < 60) == dark
    assert browser.overflows() == 0 and browser.smallest_text() >= READABLE
    assert browser.faint_text() == []
    assert "phone" not in window or browser.small_targets() == []
    assert browser.evaluate(HIDDEN) == "nothing hidden"


def brightness(browser):
    return browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0) / 3")


@pytest.fixture
def desk(site):
    site.configure(OWNER + SETTINGS + '[log]\nfile = "../site.log"\n')
    with Apache(site) as apache:
        until(lambda: apache.client.get("/").status == 200, 20, "the site serves")
        Owner(apache.port).open().do("plan")
        with Chromium() as browser:
            browser.url = f"http://127.0.0.1:{apache.port}/-/desk"
            yield browser


# What a check may find, with names that have no place to break.
FOUND = [
    {"level": level, "code": code, "place": "/home/" + "a" * 70, "what": what, "fix": "rm " + "c" * 90}
    for level, code, what in (("error", "RF0273", "b" * 90), ("warning", "RF0271", "d\n" + "e" * 90), ("ok", "", "f" * 90))
]


# What a view that fails leaves behind.
FOUND[0]["what"] = "b" * 90 + "\nRF0320 KeyError\nTraceback (most recent call last):\n" + '  File "/%s.py", line 1, in x\n' % ("g" * 90) * 9


def test_pages_fit_and_can_be_read(desk, site, tmp_path):
    site.put(site.runtime / "check.out", "\n".join(map(json.dumps, FOUND)))
    for window, dark in LIKES:
        like(desk, window, dark)
        desk.go(desk.url)
        must_be_readable(desk, window, dark)
    log_in(desk, desk.url)
    assert "b" * 90 in desk.text() and "1 check passed" in desk.text()
    for window, dark in LIKES:
        like(desk, window, dark)
        for rest in ("", "/failures", "/tasks", "/log", "/nothing"):
            desk.go(desk.url + rest)
            for part in ("folded", "unfolded"):
                desk.picture(tmp_path / f"{window}-{dark}{rest.replace('/', '-')}-{part}.png")
                must_be_readable(desk, window, dark)
                desk.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


# Text that the window or a box cuts off at the side.
HIDDEN = """
    (e => e ? e.outerHTML : 'nothing hidden')([...document.querySelectorAll('td, h1, h2, p, a, li, pre, summary, button, .w')].find(
        e => e.getClientRects().length
             && (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display != 'inline'
                 || e.getBoundingClientRect().right > innerWidth + 1)))
"""


def test_the_buttons_work(desk):
    """What the owner does, as a browser with the page's own policy does it."""
    log_in(desk, desk.url)
    assert "Limits of the account" in desk.text()
    desk.go(desk.url + "/tasks")
    desk.click("Check")
    until(lambda: "running" not in desk.text(), 120, "the page is loaded anew until the check has ended")
    assert "checks passed" in desk.text() and "imported in" not in desk.text(), "what is fine is folded"
    desk.evaluate("document.querySelector('details.fine').open = true")
    assert "app myproject.settings: imported in" in desk.text()
    desk.click("Close")
    assert "Secret" in desk.text() and "Limits" not in desk.text()


FAILING = """
ROOT_URLCONF = "myproject.failing"
DATABASES["default"]["NAME"] = HOME / "db" / "empty.sqlite3"
"""


def change_settings(site, text):
    """Puts other settings of Django live."""
    path = site.project / "myproject" / "settings.py"
    site.put(path, site.good + text)
    site.touch()


@pytest.fixture
def refused(desk, site):
    """A site whose views fail, and whose newest code does not start."""
    site.good = (site.project / "myproject" / "settings.py").read_text()
    client = Owner(int(desk.url.split(":")[2].split("/")[0])).open()
    change_settings(site, FAILING)
    until(lambda: client.get("/fine/").status == 200, 60, "the views that fail are there")
    for path in ("/raises/", "/raises/", "/counts_users/"):
        assert client.get(path).status == 500
    client.do("check")
    change_settings(site, FAILING + "import no_such_thing\n")
    until(lambda: "was refused" in client.words(), 60, "the new code is refused")
    like(desk, "desktop", False)
    log_in(desk, desk.url)
    return client


def test_what_is_wrong_is_seen_first(desk, site, refused):
    parts = [".alarm h2", ".way", ".what", ".cure", ".do", ".own", ".alarm summary", ".failed", ".found", ".n", "footer"]
    for window, dark in LIKES:
        like(desk, window, dark)
        desk.go(desk.url)
        tops = desk.tops(*parts)
        assert None not in tops and tops == sorted(tops), (window, tops)
        if window != "small phone":
            assert tops[parts.index(".own")] < WINDOWS[window][1], "without scrolling: what happened, and what helps"
        must_be_readable(desk, window, dark)
        assert desk.tops(".alarm details pre") == [None], "the traceback is folded"
    way = [line.split() for line in desk.evaluate("[...document.querySelectorAll('.way li')].map(e => e.className + ' ' + e.innerText)")]
    assert [step[:2] for step in way] == [["good", "Settings"], ["bad", "App"], ["good", "Visitors"]]
    buttons = desk.evaluate("[...document.querySelectorAll('.do button')].map(e => e.innerText)")
    assert buttons == ["Install packages", "Restart"]


def test_the_button_beside_what_is_wrong_puts_the_cure_live(desk, site, refused):
    site.put(site.project / "myproject" / "settings.py", site.good + FAILING)
    desk.click("Restart")
    until(lambda: "was refused" not in refused.words() and refused.get("/fine/").status == 200, 60, "the mended code is live")
    desk.go(desk.url)
    assert desk.tops(".alarm", ".failed")[0] is None


def test_a_failure_shows_the_owners_own_line_and_the_button_that_helps(desk, site, refused):
    desk.go(desk.url + "/failures")
    cards = desk.evaluate("[...document.querySelectorAll('.failure')].map(e => [e.innerText, e.querySelector('button')?.innerText])")
    table, button = next(card for card in cards if "no such table" in card[0])
    assert "return HttpResponse(User.objects.count())" in table and button == "Show the migrations"
    assert "site-packages" not in table, "the traceback is folded"
    for window, dark in LIKES:
        like(desk, window, dark)
        must_be_readable(desk, window, dark)
    desk.go(desk.url)
    found = next(text for text in desk.evaluate("[...document.querySelectorAll('.row')].map(e => e.innerText)") if "/counts_users/" in text)
    assert "OperationalError: no such table" in found and "User.objects.count()" in found and "site-packages" not in found


def test_the_end_of_the_log_is_seen(desk, site, refused):
    desk.go(desk.url + "/log")
    seen = desk.evaluate("""
        (([box, log]) => [log.clientHeight > box.clientHeight,
                          log.lastElementChild.getBoundingClientRect().bottom <= box.getBoundingClientRect().bottom])
        (['.scroll', '.log'].map(part => document.querySelector(part)))
    """)
    assert seen == [True, True], "without scrolling a long log"
    red = desk.evaluate("[...document.querySelectorAll('.log .bad')].map(e => e.innerText)")
    assert red and all("] error: RF0" in line for line in red), red


def test_the_keyboard_shows_where_it_is(desk):
    log_in(desk, desk.url)
    desk.go(desk.url + "/tasks")
    for dark in (False, True):
        like(desk, "desktop", dark)
        for _ in range(8):
            desk.tab()
            ring = desk.evaluate("(s => [s.outlineStyle, parseFloat(s.outlineWidth)])(getComputedStyle(document.activeElement))")
            assert ring[0] == "solid" and ring[1] >= 2, desk.evaluate("document.activeElement.outerHTML")


def test_the_status_page(site):
    site.configure(SETTINGS + '[status]\npath = "/-/status"\nsecret = "a-secret-of-the-status"\n')
    site.put(site.project / "myproject" / "settings.py", "import no_such_thing\n")
    with Apache(site) as apache, Chromium() as browser:
        url = f"http://127.0.0.1:{apache.port}/-/status?secret=a-secret-of-the-status"
        until(lambda: apache.client.get("/").status == 500 and "Problems" in apache.client.get("/-/status?secret=a-secret-of-the-status").text, 20, "it tells")
        for window, dark in LIKES:
            like(browser, window, dark)
            browser.go(url)
            must_be_readable(browser, window, dark)
            problems, numbers = browser.tops("section li", ".n")
            assert problems < numbers, "what is wrong comes first"


def test_the_visitors_page(site, tmp_path):
    settings = site.project / "myproject" / "settings.py"
    good = settings.read_text()
    site.put(settings, "import no_such_thing\n")
    with Apache(site) as apache, Chromium() as browser:
        for window, dark in LIKES:
            like(browser, window, dark)
            browser.go(f"http://127.0.0.1:{apache.port}/")
            browser.picture(tmp_path / f"{window}-{dark}.png")
            assert "Something went wrong" in browser.text() and "no_such_thing" not in browser.text()
            left, right = browser.evaluate("(r => [r.left, innerWidth - r.right])(document.querySelector('main').getBoundingClientRect())")
            assert left >= 12 and right >= 12, (window, dark)
            must_be_readable(browser, window, dark)
        assert apache.client.post("/", "a=b").status == 500 and "Try again" not in apache.client.post("/", "a=b").text
        site.put(settings, good)
        until(lambda: apache.client.get("/").status == 200, 20, "it is mended")
        browser.evaluate("document.querySelector('a').click()")
        until(lambda: "It works." in browser.text(), 20, "Try again leads to the page")


def test_with_debug_the_visitors_page_tells_the_owner_what_helps(site):
    site.configure(SETTINGS + "debug = true\n")
    site.put(site.project / "myproject" / "settings.py", "\nimport no_such_thing\n")
    with Apache(site) as apache, Chromium() as browser:
        for window, dark in LIKES:
            like(browser, window, dark)
            browser.go(f"http://127.0.0.1:{apache.port}/")
            tops = browser.tops("h1", ".what", ".cure", ".own", "details pre", "footer")
            assert None not in tops and tops == sorted(tops), (window, tops)
            must_be_readable(browser, window, dark)
        what, cure, own = browser.evaluate("['.what', '.cure', '.own pre'].map(part => document.querySelector(part).innerText)")
        assert "no module named 'no_such_thing' (myproject/settings.py:2)" in what and "install it" in cure
        assert own.endswith("line 2, in <module>\n  import no_such_thing"), own
        assert "debug is on" in browser.text()


def test_the_picture_of_the_readme_can_be_remade(build, tmp_path):
    """What deploy/picture does after its build."""
    picture.take(build, tmp_path / "desk.png")
    assert (tmp_path / "desk.png").stat().st_size > 40_000, "an empty page is smaller"
