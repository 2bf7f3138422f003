"""What the README says under "When something goes wrong": each failure is caused, and looks as its row says."""

import ast
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from webservers.account import REPOSITORY, give
from webservers.apache import CGI_ONLY, FCGID_ONLY, Apache
from webservers.processes import until
from webservers.users import AS_ROOT, SUEXEC_LOG, SUEXEC_SITE

README = (REPOSITORY / "README.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+?) \|$", README.partition("## When something goes wrong")[2].partition("\n## ")[0], re.MULTILINE)
NO_PROGRAMS = "<Directory {public}>\nOptions -ExecCGI\n</Directory>\n"


def row(*words):
    """The one row of the README's table that says all this."""
    found = [seen for seen, why in ROWS if all(word in seen + why for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def test_each_row_is_caused_by_a_test():
    calls = [node for node in ast.walk(ast.parse(Path(__file__).read_text())) if isinstance(node, ast.Call)]
    named = [[word.value for word in call.args if isinstance(word, ast.Constant)] for call in calls if ast.unparse(call.func) == "row"]
    caused = [row(*words) for words in named if words]
    assert [seen for seen, _ in ROWS[1:] if seen not in caused] == []


def edited(account, before, after):
    path = account.site / ".htaccess"
    assert before in path.read_text()
    account.put(path, path.read_text().replace(before, after))


def damaged(account):
    """What an upload as text makes of the executable."""
    account.executable.write_bytes(account.executable.read_bytes().replace(b"\n", b"\r\n"))
    give(account.executable)


def fails(account, status, *logged, extra="", options=(), path="/", timeout=30):
    """Apache's own page with this status comes, and soon all that is logged; returns the answer."""
    with Apache(account, extra.format(public=account.public), options) as apache:
        apache.client.timeout = timeout
        response = apache.client.get(path)
        assert response.status == status, (response.status, apache.log())
        assert status == 200 or "incident" not in response.text.lower()
        until(lambda: all(text in apache.log() for text in logged), 10, f"the log says {logged}: {apache.log()}")
    return response


def test_a_line_that_the_host_forbids(site):
    row("500 on every page", "not allowed here")
    edited(site, "# Options +ExecCGI", "Options +ExecCGI")
    (site.site / "a.png").write_bytes(b"picture")
    extra = "<Directory {public}>\nAllowOverride FileInfo\n</Directory>\n"
    fails(site, 500, "not allowed here", extra=extra, path="/a.png")


@pytest.mark.parametrize(
    "options, logged", [((), "does not have ExecCGI enabled"), (CGI_ONLY, "ExecCGI is off")], ids=["mod_fcgid", "mod_cgid"]
)
def test_no_programs_in_this_directory(make_site, options, logged):
    row("403", logged, "remove the `#` from the line `Options +ExecCGI`")
    fails(make_site(), 403, logged, extra=NO_PROGRAMS, options=options)
    account = make_site()
    edited(account, "# Options +ExecCGI", "Options +ExecCGI")
    with Apache(account, NO_PROGRAMS.format(public=account.public), options) as apache:
        assert apache.client.get("/version/").text == "0"


def test_a_download(site):
    row("the browser downloads `mysite.fcgi`", "`.htaccess` is missing")
    (site.site / ".htaccess").unlink()
    assert fails(site, 200, path="/mysite.fcgi").body.startswith(b"\x7fELF")


def test_cgi_that_does_not_start(site):
    row("End of script output before headers", "exec of", "permissions")
    site.executable.chmod(0o644)
    fails(site, 500, "exec of", "End of script output before headers", options=CGI_ONLY)


def test_a_damaged_executable_by_cgi(site):
    row("End of script output before headers", "unexpected signal", "the file is damaged", "in binary mode")
    damaged(site)
    fails(site, 500, "End of script output before headers", options=CGI_ONLY)


def test_what_takes_long(make_site):
    """Both only wait, so they wait together."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(waits, make_site()) for waits in (mod_fcgid_cannot_start, a_page_takes_too_long)]:
            done.result()


def mod_fcgid_cannot_start(site):
    """At its limit of processes. With wrong permissions it depends on who is quicker whether this comes, or a 500."""
    row("503 after 43 to 64 seconds", "can't apply process slot", "limit of processes", "permissions are not 755")
    response = fails(site, 503, "can't apply process slot", extra="FcgidMaxProcesses 0\n", timeout=90)
    assert 43 <= response.seconds < 75


def a_page_takes_too_long(site):
    row("500 after 40 seconds", "read data timeout in 40 seconds", "`FcgidIOTimeout`")
    response = fails(site, 500, "read data timeout in 40 seconds", path="/slow/?seconds=50&mark=begun", timeout=60)
    assert 39 < response.seconds < 46


@pytest.mark.parametrize("spoil", [lambda site: site.executable.chmod(0o644), damaged], ids=["permissions", "damaged"])
def test_what_mod_fcgid_cannot_run(site, spoil):
    row("End of script output before headers", "permissions")
    spoil(site)
    with Apache(site) as apache:
        apache.client.timeout = 90
        status = apache.client.get("/").status
        told = [{500: "End of script output before headers", 503: "can't apply process slot"}[status]]
        told += ["unexpected signal"] * (spoil is damaged)
        until(lambda: all(text in apache.log() for text in told), 15, f"the log says {told}")


def test_a_name_that_is_not_allowed_is_code(site):
    row("400 Bad Request", "`ALLOWED_HOSTS`", "touch")
    settings = site.project / "myproject" / "settings.py"
    text = settings.read_text()
    site.put(settings, text + '\nALLOWED_HOSTS = ["www.example.org"]\n')
    with Apache(site) as apache:
        assert apache.client.get("/").status == 400
        site.put(settings, text + '\nALLOWED_HOSTS = ["www.example.org", "127.0.0.1"]  # and this one\n')
        assert apache.client.get("/").status == 400
        site.touch()
        until(lambda: apache.client.get("/").status == 200, 15, "the new settings are live")


def test_a_path_that_is_right_at_the_root_only(make_site):
    row("500 with a number in a subdirectory only", '`"../../myproject"`')
    account = make_site(directory="shop")
    text = account.config.read_text().replace(str(account.project), "../myproject")
    account.put(account.config, text)
    with Apache(account) as apache:
        broken = apache.client.get("/shop/version/")
        assert broken.status == 500 and "incident" in broken.text.lower()
        account.put(account.config, text.replace("../myproject", "../../myproject"))
        until(lambda: apache.client.get("/shop/version/").status == 200, 30, "the settings that were put right are live")


def test_a_server_that_runs_no_programs(site):
    row("503", "This web server cannot run the site")
    response = fails(site, 503, options=("-D", "NO_FCGID", "-D", "NO_CGI"))
    assert "This web server cannot run the site" in response.text


@AS_ROOT
def test_suexec_refuses_it(owned, owner):
    row("500 from Apache without a number", "suexec policy violation", "suexec's own log")
    owned.site.chmod(0o775)
    extra = SUEXEC_SITE.format(user=owner.pw_name).partition("FcgidMaxRequestLen")[0]
    fails(owned, 500, "suexec policy violation", extra=extra, options=("-D", "SUEXEC", *CGI_ONLY))
    assert f"directory is writable by others: ({owned.site})" in Path(SUEXEC_LOG).read_text()


def told(apache, response, status, *logged):
    """The owner is told the reason of this answer: under its number, which stands on our page or in the header."""
    assert response.status == status, (response.status, response.text, apache.log())
    number = response.headers["X-Incident"] or re.search("[0-9a-f]{8}", response.text)[0]
    events = until(lambda: re.findall(f"incident {number}.*", apache.log()), 10, f"incident {number} is logged")
    assert all(text in apache.log() for text in logged), (events, apache.log())


def test_settings_that_are_wrong(site):
    row("500 with an incident number", "`mysite.toml`")
    site.put(site.config, site.config.read_text().replace("settings =", "setings ="))
    with Apache(site) as apache:
        told(apache, apache.client.get("/"), 500, "did you mean settings?")


def test_packages_are_missing(site):
    row("no python found that can import", "what was tried follows in the log")
    (site.home / "venv").unlink()
    with Apache(site) as apache:
        told(apache, apache.client.get("/"), 500, "no python found that can import", "/usr/bin/python3")


def test_a_large_upload_where_there_is_no_cgi(make_site):
    row("uploads above 128 KiB give a 500", "`FcgidMaxRequestLen`")
    for options, status in ((FCGID_ONLY, 500), ((), 200)):
        with Apache(make_site(), options=options) as apache:
            assert apache.client.post("/upload/", bytes(129 << 10)).status == status


def test_an_upload_above_what_the_account_may_write(site):
    row("413", "RLIMIT_FSIZE")
    # Apache inherits the limit to the site; what it keeps in memory itself is not above it.
    extra = "FcgidMaxRequestLen 16777216\nFcgidMaxRequestInMem 16777216\n"
    with Apache(site, extra, FCGID_ONLY, wrap=["prlimit", f"--fsize={4 << 20}"]) as apache:
        assert apache.client.get("/version/").text == "0"
        told(apache, apache.client.post("/upload/", bytes(8 << 20)), 413, "RLIMIT_FSIZE")


def test_static_files_that_were_collected_elsewhere(site):
    row("the admin has no colours", "`collectstatic`")
    with Apache(site) as apache:
        page = apache.client.get("/admin/login/")
        sheet = re.search(r'<link rel="stylesheet" href="([^"]+)"', page.text)[1]
        assert (page.status, apache.client.get(sheet).status) == (200, 200)
        shutil.move(site.public / "static", site.home / "static")
        assert (apache.client.get("/admin/login/").status, apache.client.get(sheet).status) == (200, 404)


@AS_ROOT
def test_a_database_that_may_not_be_written(site):
    row("attempt to write a readonly database", "*and its directory*")
    settings = site.project / "myproject" / "settings.py"
    site.put(settings, settings.read_text() + 'ROOT_URLCONF = "myproject.failing"\n')
    database = site.home / "db" / "db.sqlite3"
    with Apache(site) as apache:
        for path, closed in ((database, 0o444), (database.parent, 0o555)):
            mode = path.stat().st_mode
            path.chmod(closed)
            told(apache, apache.client.get("/adds_a_user/"), 500, "attempt to write a readonly database")
            path.chmod(mode)
        assert apache.client.get("/adds_a_user/").status == 200


def test_authorization_without_its_rule(site):
    row("API tokens do not arrive", "`Authorization`")
    rule = re.search("(?m)^ *RewriteRule .*HTTP_AUTHORIZATION.*\n", (site.site / ".htaccess").read_text())[0]
    with Apache(site) as apache:
        for before, after, arrives in ((rule, "", False), ("", rule, True)):
            if arrives:
                site.htaccess("site")
            else:
                edited(site, before, after)
            environ = apache.client.get("/echo/", Authorization="Token t").json["environ"]
            assert ("HTTP_AUTHORIZATION" in environ) == arrives


CLOSED = """\
mount --bind {base} /mnt
mount -t tmpfs -o mode=0755 none /dev/shm
mount -t tmpfs -o mode=0755 none /var/tmp
mount --bind /tmp /tmp
mount -o remount,bind,ro /tmp
mount --move /mnt {base}
exec "$@"
"""


@AS_ROOT
def test_temporary_directories_that_are_closed(site):
    row("no runtime directory", "`runtime_dir`", "The site is served")
    text = site.config.read_text()
    site.put(site.config, text.partition("[server]")[0])
    site.site.chmod(0o555)
    with Apache(site, wrap=["unshare", "-m", "sh", "-ec", CLOSED.format(base=site.base), "sh"]) as apache:
        assert apache.client.get("/version/").text == "0"
        assert "no runtime directory" in apache.log()
