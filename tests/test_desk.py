"""The owner's desk: who gets in, and what they see when all else is broken."""

import json
import os
import re

import pytest

from desk_site import DESK, OWNER, SECRET, SETTINGS, Browser, DeskSite
from webservers.processes import until


@pytest.fixture
def make_desk(build):
    made = []

    def make(settings=SETTINGS + OWNER, start=True):
        made.append(DeskSite(build, settings))
        if start:
            made[-1].start()
        return made[-1]

    yield make
    for site in made:
        site.remove()


@pytest.fixture
def site(make_desk):
    return make_desk()


def test_without_settings_there_is_no_desk(make_desk):
    browser = Browser(make_desk(SETTINGS))
    assert browser.get().text == f"app GET {DESK}"
    assert browser.post(fields={"secret": SECRET}).text == f"app POST {DESK}"


def test_only_the_form_is_there_without_the_secret(site):
    browser = Browser(site)
    page = browser.get()
    assert page.status == 200 and page.headers["Cache-Control"] == "no-store"
    assert 'type="password" name="secret"' in page.text and str(site.dir) not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text and "http" not in page.text
    for rest in ("/tasks", "/log", "/close", "x"):
        assert browser.get(DESK + rest).text == f"app GET {DESK}{rest}"
    assert browser.request("PUT", DESK).status == 405
    assert browser.request("HEAD", DESK).body == b""


def test_the_secret_opens_the_desk_for_an_hour(site):
    browser = Browser(site)
    reply = browser.post(fields={"secret": SECRET})
    assert reply.status == 303 and reply.headers["Location"] == DESK
    cookie = reply.headers["Set-Cookie"]
    for part in ("Max-Age=3600", f"Path={DESK}", "HttpOnly", "SameSite=Strict", "Secure"):
        assert part in cookie.split("; ")[1:]
    page = browser.get()
    assert page.status == 200 and "serving" in page.words and "Limits of the account" in page.words
    assert SECRET not in page.text and "Secure" in cookie
    # Also at the next front, which has not seen the secret.
    site.fronts[0].terminate()
    site.fronts[0].wait(20)
    site.start()
    assert "Limits of the account" in browser.get().words
    assert browser.do("/close").status == 303
    assert "Limits of the account" not in browser.get().words
    log = site.log()
    assert "desk: opened from 203.0.113.7" in log and "desk: closed from 203.0.113.7" in log
    assert SECRET not in log and browser.cookie not in log and "runfcgi-desk=" not in log


def test_a_cookie_cannot_be_made_up(site):
    browser = Browser(site)
    browser.open()
    name, value = browser.cookie.split("=")
    end, number, signature = value.split(".")
    for wrong in (
        f"{int(end) + 1}.{number}.{signature}",
        f"{end}.{number}.{'0' * 64}",
        f"{end}.{number}.",
        "",
        "." * 5000,
        f"{'9' * 400}.{number}.{signature}",
    ):
        browser.cookie = f"{name}={wrong}"
        page = browser.get()
        assert 'name="secret"' in page.text and "Limits" not in page.text, wrong
        assert browser.post(DESK + "/close", {"token": "x"}).text == f"app POST {DESK}/close"


def test_a_form_of_another_session_does_nothing(site):
    browser, other = Browser(site), Browser(site)
    browser.open()
    token = other.open().token
    for fields in ({}, {"token": ""}, {"token": token}, {"token": "é" * 64}):
        reply = browser.post(DESK + "/close", fields)
        assert reply.status == 403 and "Nothing was done" in reply.words
    assert "Limits of the account" in browser.get().words, "it is open still"
    assert re.search(r"RF0702.* a form that is not of its session, from 203\.0\.113\.7", site.log())


def test_long_bodies_are_not_looked_at(site):
    browser = Browser(site)
    long = b"secret=" + SECRET.encode() + b"&x="
    for size in (9 << 10, 70 << 10, 3 << 20):
        assert browser.request("POST", DESK, long + b"y" * size).status == 413
    browser.open()
    assert browser.request("POST", DESK + "/close", b"token=" + b"y" * (1 << 20)).status == 413
    assert browser.request("DELETE", DESK).status == 405


def test_who_guesses_waits(site):
    site.start()
    guesser, owner, late = Browser(site), Browser(site), Browser(site)
    owner.open()
    replies = [guesser.post(fields={"secret": f"guess {n}"}) for n in range(20)]
    statuses = [reply.status for reply in replies]
    assert statuses[:3] == [403] * 3 and set(statuses[3:]) == {429}
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 5
    assert late.post(fields={"secret": SECRET}).status == 429, "nobody learns whether it was right"
    assert "Limits of the account" in owner.get().words, "who is in stays in"
    told = re.findall(r"RF0701.* a wrong secret from 203\.0\.113\.7", site.log())
    assert len(told) == 2 * 3, "in our log and the web server's"
    assert until(lambda: late.post(fields={"secret": SECRET}).status == 303, 10, "the pause is over")


def test_nobody_types_the_secret_where_it_can_be_read(site):
    plain = Browser(site, HTTPS="")
    for reply in (plain.get(), plain.post(fields={"secret": SECRET})):
        assert reply.status == 403 and "https://" in reply.words and "Set-Cookie" not in reply.headers
    here = Browser(site, HTTPS="", REMOTE_ADDR="127.0.0.1")
    assert "Limits of the account" in here.open().words
    cookie = here.cookie
    plain.cookie = cookie
    assert plain.get().status == 403
    proxied = Browser(site, HTTPS="", REMOTE_ADDR="127.0.0.1", HTTP_X_FORWARDED_FOR="203.0.113.7")
    assert proxied.get().status == 403


def test_a_site_below_a_directory(site):
    browser = Browser(site, below="/shop")
    reply = browser.post(fields={"secret": SECRET})
    assert reply.headers["Location"] == f"/shop{DESK}"
    assert f"Path=/shop{DESK};" in reply.headers["Set-Cookie"]
    assert f'action="/shop{DESK}/close"' in browser.get().text


def test_it_answers_when_the_app_cannot_be_imported(make_desk):
    site = make_desk(start=False)
    (site.dir / "desk_app.py").write_text("import no_such_thing\n")
    site.start()
    browser = Browser(site)
    assert until(lambda: browser.get("/").status == 500, 20, "the app fails")
    page = browser.open()
    assert "The site does not work" in page.words and "No module named 'no_such_thing'" in page.words


def test_it_tells_why_the_old_code_serves(site):
    browser = Browser(site)
    assert browser.get("/").text == "app GET /"
    (site.dir / "desk_app.py").write_text("import <b>no_such_thing\n")
    (site.dir / "tmp").mkdir()
    (site.dir / "tmp" / "restart.txt").touch()
    browser.open()
    words = until(lambda: "refused" in (words := browser.get().words) and words, 20, "the new code is refused")
    assert "the old one serves" in words and "invalid syntax" in words and "<b>no_such_thing" in words
    assert browser.get("/").text == "app GET /"


@pytest.mark.parametrize("broken", ["[limits]\nqueue = -5\n", "[app\n", '[app]\npath = "nowhere"\n'])
def test_it_tells_what_is_wrong_with_the_settings(site, broken):
    browser = Browser(site)
    browser.open()
    site.configure(OWNER + broken + ("" if "[app" in broken else SETTINGS))
    words = until(lambda: "The settings were refused" in (w := browser.get().words) and w, 20, "they are refused")
    assert re.search(r"mysite\.toml:\d+", words) and "serving" in words
    assert browser.get("/").text == "app GET /"


def test_settings_that_nobody_may_use_have_no_desk(site):
    browser = Browser(site)
    browser.open()
    site.settings.chmod(0o666)
    words = until(lambda: "The settings were refused" in (w := browser.get().words) and w, 20, "they are refused")
    assert "others may write the settings file" in words


def test_failures_are_found_by_their_number(site):
    browser = Browser(site)
    page = browser.get("/raise", HTTP_ACCEPT="application/json")
    number = json.loads(page.text)["incident"]
    assert page.status == 500
    browser.open()
    assert "1 failure in the last 24 hours" in browser.get().words
    words = browser.get(DESK + "/failures").words
    assert number in words and "GET /raise" in words and "<what> was sent" in words
    assert '<details open>' in browser.get(DESK + "/failures", QUERY_STRING=f"number={number}").text
    words = browser.get(DESK + "/failures", QUERY_STRING="number=%3Cb%3E").words
    assert "No failure with the number <b> is known" in words
    browser.get("/raise")
    assert "2 times since" in browser.get(DESK + "/failures").words


def test_failures_are_still_known_when_all_processes_have_left(site):
    browser = Browser(site)
    number = json.loads(browser.get("/raise", HTTP_ACCEPT="application/json").text)["incident"]
    site.stop()
    assert os.listdir(site.dir / "run") == ["journal"]
    site.start()
    browser.open()
    words = browser.get(DESK + "/failures", QUERY_STRING=f"number={number}").words
    assert number in words and "GET /raise" in words


def test_no_task_without_the_token(site):
    browser = Browser(site)
    browser.open()
    assert browser.post(DESK + "/tasks", {"task": "check"}).status == 403
    assert browser.post(DESK + "/stop").status == 403
    assert browser.request("GET", DESK + "/stop").status == 404
    assert not list((site.dir / "run").glob("task*"))
