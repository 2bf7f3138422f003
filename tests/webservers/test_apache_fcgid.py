"""A Django site under a real Apache with mod_fcgid, from nothing but three files in public_html."""

import base64
import hashlib
import os
import re
import shutil
import threading
import time
from urllib.parse import quote

import pytest

from webservers import processes
from webservers.account import ADMIN, give
from webservers.apache import Apache
from webservers.load import Load
from webservers.processes import comm, until

PATTERN = bytes(range(256)) * 256


def incident(response, log):
    """The incident id on an error page; the same one must stand in the owner's log."""
    text = re.sub(r"<[^>]*>", " ", response.text)
    found = re.search(r"incident\W+(?:id\W+)?([0-9A-Za-z-]{6,})", text, re.IGNORECASE)
    assert found, f"no incident id on the page: {text}"
    until(lambda: found[1] in log(), 5, f"incident {found[1]} is in the error log")
    return found[1]


# --- pages ---------------------------------------------------------------------------------------------------------


def test_the_home_page(web):
    response = web.get("/")
    assert response.status == 200
    assert "<h1>It works.</h1>" in response.text
    assert "href='/target/'" in response.text


def test_the_login_page_of_the_admin_comes_with_its_css(web):
    page = web.get("/admin/", Accept="text/html")
    assert page.status == 302 and page.headers["Location"] == "/admin/login/?next=/admin/"
    page = web.get(page.headers["Location"])
    assert page.status == 200 and "csrfmiddlewaretoken" in page.text
    sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
    assert sheets
    for sheet in sheets:
        css = web.get(sheet)
        assert css.status == 200 and css.headers["Content-Type"].startswith("text/css"), sheet


def test_a_person_can_log_in_and_add_a_user(apache):
    browser = apache.client
    page = browser.get("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    form = "application/x-www-form-urlencoded"
    wrong = browser.post("/admin/login/", f"csrfmiddlewaretoken={token}&username=x&password=y", Content_Type=form)
    assert wrong.status == 200 and "errornote" in wrong.text
    body = f"csrfmiddlewaretoken={token}&username={ADMIN[0]}&password={ADMIN[1].replace(' ', '+')}&next=/admin/"
    entered = browser.post("/admin/login/", body, Content_Type=form)
    assert entered.status == 302 and entered.headers["Location"] == "/admin/"
    page = browser.get("/admin/auth/user/add/")
    assert page.status == 200
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[1]
    body = f"csrfmiddlewaretoken={token}&username=zo%C3%AB&usable_password=true&password1=Xk2n93kd0a&password2=Xk2n93kd0a"
    added = browser.post("/admin/auth/user/add/", body, Content_Type=form)
    assert added.status == 302, re.findall(r'errorlist.*', added.text)
    assert "zoë" in browser.get("/admin/auth/user/").text


def test_without_its_token_a_form_is_refused(web):
    assert web.post("/admin/login/", "username=x&password=y").status == 403


def test_cookies_go_both_ways(apache):
    browser = apache.client
    first = browser.get("/cookies/")
    assert first.json == {} and len(first.headers.get_all("Set-Cookie")) == 2
    assert browser.get("/cookies/").json == {"one": "1", "two": "2"}


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent, seen",
    [
        ("/echo/", "/echo/"),
        ("/echo/a/b", "/echo/a/b"),
        ("/echo/a%20b/", "/echo/a b/"),
        ("/echo/%C3%A9t%C3%A9", "/echo/été"),
        ("/echo/%E6%97%A5%E6%9C%AC/", "/echo/日本/"),
        ("/echo/a//b", "/echo/a/b"),
        ("//echo/x", "/echo/x"),
        ("/echo/a+b&c=d;e", "/echo/a+b&c=d;e"),
        ("/echo/100%25", "/echo/100%"),
        ("/echo/a%252Fb", "/echo/a%2Fb"),
        ("/echo/a%3Fb", "/echo/a?b"),
        ("/echo/x?q=%C3%A9&r=1", "/echo/x"),
        ("/echo/robots.txt", "/echo/robots.txt"),
        ("/echo/settings.toml", "/echo/settings.toml"),
    ],
)
def test_the_site_sees_the_address_that_was_sent(web, sent, seen):
    response = web.get(sent)
    assert response.status == 200
    told = response.json
    assert told["path_info"] == seen
    assert told["path"] == seen
    assert told["environ"]["SCRIPT_NAME"] == ""
    assert told["url"] == "/target/"
    assert told["environ"]["REQUEST_URI"] == sent
    assert "mysite.fcgi" not in told["absolute"]


def test_the_query_string_arrives_once_and_whole(web):
    told = web.get("/echo/?a=%C3%A9&b=x+y&b2=%26").json
    assert told["get"] == {"a": "é", "b": "x y", "b2": "&"}
    assert told["environ"]["QUERY_STRING"] == "a=%C3%A9&b=x+y&b2=%26"


def test_redirects_do_not_name_the_executable(web):
    assert web.get("/redirect/").headers["Location"] == "/target/"
    slash = web.get("/version")
    assert slash.status == 301 and slash.headers["Location"] == "/version/"


@pytest.mark.parametrize("directory", ["sub", "sub/dir", "café"])
def test_a_site_in_a_subdirectory(make_site, directory):
    """mod_fcgid cannot start a program whose path has a space in it, so no such directory stands here."""
    account = make_site(directory=directory)
    prefix = "/" + directory
    url = quote(prefix)
    with Apache(account) as apache:
        web = apache.client
        told = web.get(f"{url}/echo/%C3%A9/").json
        assert told["environ"]["SCRIPT_NAME"] == prefix
        assert told["path_info"] == "/echo/é/"
        assert told["url"] == f"{url}/target/"
        assert web.get(f"{url}/").status == 200
        assert web.get(url).headers["Location"].lower().endswith(f"{url}/".lower())
        assert web.get(f"{url}/redirect/").headers["Location"] == f"{url}/target/"
        page = web.get(f"{url}/admin/login/")
        sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
        assert sheets and all(s.startswith(f"{prefix}/static/") and web.get(quote(s)).status == 200 for s in sheets)
        assert web.get(f"{url}/mysite.toml").status == 404


def test_an_alias_outside_the_document_root(make_site, model, build):
    account = make_site(directory="")
    outside = account.home / "user_public"
    account.public.rename(outside)
    account.public.mkdir()
    extra = f"Alias /~user {outside}\n<Directory {outside}>\nRequire all granted\nAllowOverride FileInfo\n"
    with Apache(account, extra + "Options SymLinksIfOwnerMatch ExecCGI\n</Directory>\n") as apache:
        told = apache.client.get("/~user/echo/x/").json
        assert told["environ"]["SCRIPT_NAME"] == "/~user" and told["path_info"] == "/echo/x/"


# --- what the environment says -------------------------------------------------------------------------------------


def test_authorization_arrives(web):
    value = "Basic " + base64.b64encode(b"user:secret").decode()
    assert web.get("/echo/", Authorization=value).json["environ"]["HTTP_AUTHORIZATION"] == value
    assert "HTTP_AUTHORIZATION" not in web.get("/echo/").json["environ"]


def test_a_proxy_header_does_not(web):
    assert "HTTP_PROXY" not in web.get("/echo/", Proxy="http://evil/").json["environ"]


def test_the_environment_is_one_for_unicode_and_one_request_at_a_time(web):
    told = web.get("/echo/").json
    assert "UTF-8" in told["lang"].upper()
    assert told["multithread"] is False and told["multiprocess"] is True and told["run_once"] is False


# --- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8000, 8001, 65535, 65536, 100 << 10, 5 << 20])
def test_an_upload_arrives_whole(web, size):
    body = os.urandom(size)
    told = web.post("/upload/", body, Content_Type="application/octet-stream").json
    assert told == {"length": size, "sha256": hashlib.sha256(body).hexdigest()}


def test_a_chunked_upload_arrives_whole(web):
    pieces = [os.urandom(n) for n in (1, 1000, 70000, 40000)]
    response = web.request("POST", "/upload/", iter(pieces), chunked=True)
    assert response.json == {"length": 111001, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()}


def test_a_page_that_does_not_read_its_body_answers_all_the_same(web):
    for _ in range(3):
        response = web.post("/version/", bytes(1 << 20))
        assert response.status in (200, 403)
    assert web.get("/version/").text == "0"


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("size", [0, 1, 65536, 5 << 20])
def test_a_download_arrives_whole(web, kind, size):
    response = web.get(f"/{kind}/{size}/")
    assert response.status == 200
    assert response.body == (PATTERN * (size // len(PATTERN) + 1))[:size]
    if kind == "file":
        assert response.headers["Content-Length"] == str(size)
        assert "gr%C3%B6%C3%9Fe.bin" in response.headers["Content-Disposition"]


def test_a_slow_stream_arrives_whole(web):
    assert web.get("/drip/").text == "drop 0\ndrop 1\ndrop 2\n"


def test_head_has_the_headers_and_no_body(web):
    got, head = web.get("/target/"), web.request("HEAD", "/target/")
    assert head.status == 200 and head.body == b""
    assert head.headers["Content-Length"] == got.headers["Content-Length"] == str(len(got.body))
    assert web.request("HEAD", "/stream/100000/").body == b""
    assert web.request("HEAD", "/file/100000/").headers["Content-Length"] == "100000"


def test_not_modified(web):
    first = web.get("/target/")
    again = web.get("/target/", If_None_Match=first.headers["ETag"])
    assert again.status == 304 and again.body == b""


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_any_method(web, method):
    response = web.request(method, "/method/", b"x" if method in ("PUT", "PATCH") else None)
    assert response.status == 200 and response.text == method


# --- what a visitor must not get -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/mysite.toml", "/.htaccess", "/static/.htaccess", "/MYSITE.TOML"])
def test_configuration_is_not_served(web, path):
    response = web.get(path)
    assert response.status in (403, 404)
    assert b"settings" not in response.body and b"Rewrite" not in response.body


def test_an_error_of_the_site_is_its_own_page(web):
    response = web.get("/error/")
    assert response.status == 500
    assert "Traceback" not in response.text and "asked to fail" not in response.text
    assert web.get("/nothing/here/").status == 404


# --- failures ------------------------------------------------------------------------------------------------------

FAILURES = {
    "raised before the headers": ('[app]\npath = "{project}"\nwsgi = "crash:raises"\n', "raised before the headers"),
    "the worker leaves": ('[app]\npath = "{project}"\nwsgi = "crash:leaves"\n', ""),
    "no such settings": ('[app]\npath = "{project}"\nsettings = "myproject.setings"\n', "myproject.setings"),
    "no such module": ('[app]\npath = "{project}"\nwsgi = "nowhere:app"\n', "nowhere"),
    "no such key": ('[app]\npath = "{project}"\nsetings = "myproject.settings"\n', "setings"),
    "not TOML": ("[app\n", "mysite.toml"),
    "no such python": ('[app]\npath = "{project}"\nsettings = "myproject.settings"\npython = "/no/python"\n', "/no/python"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_page_for_the_visitor_and_a_reason_for_the_owner(site, name):
    config, reason = FAILURES[name]
    server = "" if name == "not TOML" else '[server]\nruntime_dir = "{runtime}"\n'
    site.configure(config + server)
    with Apache(site) as apache:
        for _ in range(3):
            response = apache.client.get("/echo/")
            assert response.status in (500, 503)
            assert response.headers["Content-Type"].startswith("text/html")
            assert "Traceback" not in response.text and str(site.home) not in response.text
            incident(response, apache.log)
        assert response.seconds < 5
        until(lambda: reason in apache.log(), 5, f"{reason!r} is in the error log")
        if name == "raised before the headers":
            assert "Traceback" in apache.log() and "crash.py" in apache.log()


def test_no_configuration_at_all(site):
    site.config.unlink()
    with Apache(site) as apache:
        response = apache.client.get("/")
        assert response.status in (500, 503)
        incident(response, apache.log)
        assert "mysite.toml" in apache.log()


def test_a_configuration_that_others_may_write_is_refused(site):
    site.config.chmod(0o666)
    with Apache(site) as apache:
        assert apache.client.get("/").status in (500, 503)
        until(lambda: "mysite.toml" in apache.log(), 5, "the log names the file")


def test_a_configuration_above_public_html_is_found(site):
    site.config.rename(site.home / "mysite.toml")
    with Apache(site) as apache:
        assert apache.client.get("/version/").text == "0"


def test_packages_in_the_project_directory_need_no_environment(site, model):
    """What somebody without a shell can do: `pip install --target myproject` at home, and an upload."""
    (site.home / "venv").unlink()
    for package in ("django", "asgiref", "sqlparse"):
        shutil.copytree(next(model.home.glob(f"venv/lib/python3*/site-packages/{package}")), site.project / package)
    give(site.project)
    with Apache(site) as apache:
        assert apache.client.get("/version/").text == "0"
        assert apache.client.get("/admin/login/").status == 200


def test_kill_of_a_worker_costs_its_request_and_nothing_else(site, apache):
    apache.client.get("/version/")
    answers = []
    visitor = threading.Thread(target=lambda: answers.append(apache.client.get("/slow/?seconds=30&mark=begun")))
    visitor.start()
    mark = site.home / "db" / "begun"
    until(mark.exists, 20, "the slow page has begun")
    pid = int(mark.read_text())
    assert comm(pid) == "runfcgi-worker"
    with Load(apache.port, "/version/", visitors=2) as load:
        until(lambda: len(load.answers) > 10, 20, "other visitors are served")
        os.kill(pid, 9)
        visitor.join(10)
        time.sleep(1)
    assert answers and answers[0].status == 500
    incident(answers[0], apache.log)
    assert not load.failures
    assert apache.client.get("/version/").text == "0"


# --- restarts ------------------------------------------------------------------------------------------------------


def test_touch_under_load_loses_nothing_and_new_code_is_live_within_three_seconds(site, apache):
    touches = []
    with Load(apache.port, "/version/") as load:
        until(lambda: len(load.answers) > 100, 30, "the site is warm")
        for version in range(1, 11):
            site.code(version)
            site.touch()
            touches.append((version, time.monotonic()))
            time.sleep(3)
    assert not load.failures, load.failures[:5]
    for version, moment in touches:
        news = [a.end - moment for a in load.answers if int(a.body) >= version]
        assert news and min(news) <= 3, f"version {version} after {min(news, default=None)} s"
        later = [a for a in load.answers if a.begin > moment + 3 and int(a.body) < version]
        assert not later, f"old code after the touch of version {version}: {later[:3]}"
    print(f"{len(load.answers)} answers, slowest {max(a.end - a.begin for a in load.answers):.2f} s")


def test_restart_txt_does_the_same(site, apache):
    assert apache.client.get("/version/").text == "0"
    site.code(1)
    (site.project / "tmp").mkdir()
    site.put(site.project / "tmp" / "restart.txt", "")
    until(lambda: apache.client.get("/version/").text == "1", 4, "restart.txt puts new code live")


def test_new_code_that_is_broken_does_not_go_live(site, apache):
    site.code(1)
    assert apache.client.get("/version/").text == "1"
    site.put(site.project / "myproject" / "version.py", "import no_such_module\n")
    site.touch()
    with Load(apache.port, "/version/", visitors=4) as load:
        until(lambda: "no_such_module" in apache.log(), 6, "the log says why the new code does not start")
        time.sleep(2)
    assert not load.failures and {a.body for a in load.answers} == {"1"}
    site.code(22)
    site.touch()
    until(lambda: apache.client.get("/version/").text == "22", 4, "the mended code is live")


def test_the_executable_is_overwritten_in_place_while_it_runs(site, apache):
    """What an FTP client does. The file is the same program, so the site goes on. One visitor: for more of them mod_fcgid
    might execute the half-written file."""
    with Load(apache.port, "/version/", visitors=1) as load:
        until(lambda: len(load.answers) > 50, 30, "the site is warm")
        image = site.executable.read_bytes()
        with open(site.executable, "r+b", buffering=0) as file:
            file.truncate(0)
            for begin in range(0, len(image), 65536):
                file.write(image[begin : begin + 65536])
                time.sleep(0.01)
        site.code(3)
        site.touch()
        until(lambda: load.answers[-1].body == "3", 8, "the code after the upload is live")
    assert not load.failures, load.failures[:5]


def test_the_executable_is_replaced_by_a_rename(site, apache):
    with Load(apache.port, "/version/", visitors=4) as load:
        until(lambda: len(load.answers) > 50, 30, "the site is warm")
        fresh = site.executable.with_name("fresh")
        fresh.write_bytes(site.executable.read_bytes())
        fresh.chmod(0o755)
        os.chown(fresh, site.executable.stat().st_uid, site.executable.stat().st_gid)
        site.code(4)
        fresh.rename(site.executable)
        until(lambda: load.answers[-1].body == "4", 10, "the code after the upload is live")
    assert not load.failures, load.failures[:5]


def test_a_graceful_restart_of_apache_lets_a_page_finish(site, apache):
    answers = []
    apache.client.get("/version/")
    visitor = threading.Thread(target=lambda: answers.append(apache.client.get("/slow/?seconds=4&mark=begun")))
    visitor.start()
    until((site.home / "db" / "begun").exists, 20, "the slow page has begun")
    apache.graceful()
    visitor.join(30)
    assert answers and answers[0].status == 200 and answers[0].text == "done"
    until(lambda: apache.client.get("/version/").status == 200, 10, "the site is back")


# --- the end -------------------------------------------------------------------------------------------------------


def test_after_apache_has_stopped_nothing_is_left(site):
    with Apache(site) as apache:
        with Load(apache.port, "/version/") as load:
            until(lambda: len(load.answers) > 100, 30, "several processes are at work")
        assert apache.workers()
        assert apache.stop() == {}
        assert list(site.runtime.rglob("*")) == []


def test_the_default_runtime_directory_is_left_empty(site):
    site.configure('[app]\npath = "{project}"\nsettings = "myproject.settings"\n')
    uid = site.executable.stat().st_uid
    places = (f"/dev/shm/runfcgi-{uid}-", f"/tmp/runfcgi-{uid}-", f"/var/tmp/runfcgi-{uid}-")
    with Apache(site) as apache:
        assert apache.client.get("/version/").text == "0"
        opened = {link for pid in processes.touching(site.base) for link in processes.open_files(pid)}
        directories = {os.path.dirname(path) for path in opened if path.startswith(places)}
        assert len(directories) == 1
        assert apache.stop() == {}
        for directory in filter(os.path.exists, directories):
            assert os.listdir(directory) == []
            os.rmdir(directory)
