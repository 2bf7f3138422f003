"""The tasks of the owner's desk, with Django behind Apache's mod_fcgid."""

import os
import re
import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from webservers import processes
from webservers.account import give, run
from webservers.apache import FCGID_ONLY, Apache
from webservers.desk import OWNER, SECRET, SETTINGS, Owner
from webservers.processes import until

PASSWORD = "correct horse battery"
PATIENCE = 3  # seconds that mod_fcgid waits for a page


@pytest.fixture
def desk(site):
    site.configure(OWNER + "tasks = true\n" + SETTINGS + '[log]\nfile = "../site.log"\n')
    with Apache(site) as apache:
        owner = Owner(apache.port).open()
        owner.apache, owner.site = apache, site
        yield owner


def log(site):
    return (site.home / "site.log").read_text()


def manage(site, *words):
    return run(site.home / "venv" / "bin" / "python", "-B", site.project / "manage.py", *words)


def slow(site):
    """collectstatic takes ten minutes from now on."""
    settings = site.project / "myproject" / "settings.py"
    site.put(settings, settings.read_text() + "\nimport sys, time\nif 'collectstatic' in sys.argv:\n    time.sleep(600)\n")


def sleepers(site):
    return [pid for pid, what in processes.touching(site.project).items() if "collectstatic" in what]


def wheel(directory, name):
    """A wheel of one module."""
    directory.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "WHO = 'from the wheel'\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    give(directory)


def row(page, code):
    """The row of a finding."""
    rows = re.findall(r'(?s)<div class="row">(.*?)\n</div>\n', page)
    return next(row for row in rows if f'<span class="q">{code}</span>' in row)


def test_what_check_finds_is_shown_in_rows(desk):
    assert "not checked yet" in desk.words()
    shutil.rmtree(desk.site.public / "static")
    verdict, output = desk.do("check")
    assert "app myproject.settings: imported in" in output and "the site can be served, but see the warnings" in output
    assert verdict == "done" and "checks passed" in output
    for page in desk.page("/tasks"), desk.page():
        static = row(page, "RF0274")
        assert '<span class="tag busy">warning</span>' in static and '<p class="cure">set STATIC_ROOT' in static
        assert 'name="task" value="collectstatic"' in static, "the task that helps"
        assert "static files are not collected" in static, "what the code means"
    desk.site.put(desk.site.project / "myproject" / "settings.py", "import no_such_thing\n")
    verdict, output = desk.do("check")
    assert verdict == "it found errors" and "no module named 'no_such_thing'" in output.lower()
    assert "desk: check from 127.0.0.1" in log(desk.site)
    desk.do("unpack")
    assert '<span class="tag bad">error</span>' in row(desk.page(), "RF0201"), "kept after the next task"


def test_from_an_empty_database_to_a_superuser(desk):
    for database in (desk.site.home / "db").iterdir():
        database.unlink()
    verdict, plan = desk.do("plan")
    assert verdict == "done" and "Create model User" in plan
    assert "Apply these migrations" in desk.words("/tasks")
    assert not [file for file in (desk.site.home / "db").iterdir() if file.stat().st_size], "nothing has changed yet"
    verdict, output = desk.do("migrate")
    assert verdict == "done" and "Applying auth.0001_initial... OK" in output
    verdict, output = desk.do("createsuperuser", username="ann", email="ann@example.org", password=PASSWORD)
    assert verdict == "done" and "Superuser created successfully" in output, output
    code = f"from django.contrib.auth import authenticate as a; print(a(username='ann', password='{PASSWORD}').is_superuser)"
    assert manage(desk.site, "shell", "-c", code).strip().endswith("True")
    verdict, output = desk.do("createsuperuser", username="ann", email="ann@example.org", password=PASSWORD)
    assert verdict == "failed with status 1" and "already taken" in output
    verdict, output = desk.do("createsuperuser", username="bob", email="", password=PASSWORD)
    assert verdict == "the email is missing"
    for text in (log(desk.site), desk.apache.log(), desk.page("/tasks"), desk.page("/log")):
        assert PASSWORD not in text and SECRET not in text


def test_static_files_and_security(desk):
    shutil.rmtree(desk.site.public / "static")
    verdict, output = desk.do("collectstatic")
    assert verdict == "done" and (desk.site.public / "static" / "admin" / "css" / "base.css").is_file()
    verdict, output = desk.do("check-deploy")
    assert verdict == "done" and "security.W004" in output


def test_a_restart_puts_new_code_live(desk):
    until(lambda: desk.apache.client.get("/").status == 200, 20, "the site serves")
    desk.site.code(7)
    desk.begin("restart")
    client = desk.apache.client
    until(lambda: "7" in client.get("/version/").text, 20, "the new code serves")
    assert "desk: restart from 127.0.0.1" in log(desk.site)


def test_one_at_a_time_until_it_is_stopped(desk):
    slow(desk.site)
    desk.begin("collectstatic")
    until(lambda: sleepers(desk.site), 30, "it runs")
    assert desk.runs() and "running" in desk.words("/tasks")
    reply = desk.send("/tasks", task="check")
    assert reply.status == 200 and "Another task is running" in reply.text
    words = ["runfcgi-task", "collectstatic", str(desk.site.project), "detached", ""]
    told = {Path(f"/proc/{pid}/cmdline").read_text() for pid in processes.named(desk.site.base, "runfcgi-task")}
    assert told == {"\0".join(words)}
    # It is the child of no front, and goes on without them.
    for pid in processes.named(desk.site.base, "mysite.fcgi"):
        os.kill(pid, signal.SIGKILL)
    # A connection that one of them has accepted ends with it.
    until(lambda: not processes.named(desk.site.base, "mysite.fcgi"), 10, "the fronts have gone")
    assert desk.runs() and sleepers(desk.site)
    assert desk.send("/stop").status == 303
    until(lambda: not desk.runs(), 20, "it is stopped")
    assert desk.said()[0] == "stopped" and not sleepers(desk.site)
    assert "desk: the task is stopped from 127.0.0.1" in log(desk.site)


def test_a_task_outlives_the_web_servers_timeout(site):
    site.configure(OWNER + SETTINGS)
    settings, gate = site.project / "myproject" / "settings.py", site.home / "gate"
    waits = "    print('it waits', flush=True)\n    while not os.path.exists(%r):\n        time.sleep(0.05)\n" % str(gate)
    site.put(settings, settings.read_text() + "\nimport os, sys, time\nif 'collectstatic' in sys.argv:\n" + waits)
    with Apache(site, f"FcgidIOTimeout {PATIENCE}\n", FCGID_ONLY) as apache:
        until(lambda: apache.client.get("/").status == 200, 30, "the site serves")
        owner = Owner(apache.port).open()
        owner.begin("collectstatic")
        until(lambda: "it waits" in owner.said()[1], 30, "the page shows what it says while it runs")
        # A page that takes as long is given up.
        page = apache.client.get("/slow/?mark=slow&seconds=20")
        assert page.status == 500 and page.seconds >= PATIENCE and "read data timeout in 3 seconds" in apache.log()
        assert owner.runs() and owner.said()[0] == "running"
        gate.touch()
        until(lambda: not owner.runs(), 30, "it has ended")
        verdict, output = owner.said()
        assert verdict == "done" and "it waits" in output and "unmodified" in output, output


def test_nobody_else_begins_a_task(desk):
    stranger = Owner(desk.port)
    assert stranger.post("/-/desk/tasks", "task=check").status == 404
    assert desk.post("/-/desk/tasks", "task=check").status == 403
    assert desk.send("/tasks", task="rm -rf").status == 200
    assert desk.said() is None


def test_tasks_by_file(desk):
    wish, answer = desk.site.project / "tmp" / "run.txt", desk.site.project / "tmp" / "run.log"
    wish.parent.mkdir(exist_ok=True)
    give(wish.parent)

    def wished(text):
        answer.unlink(missing_ok=True)
        wish.write_text(text)
        give(wish)
        desk.apache.client.get("/")
        until(lambda: answer.exists() and answer.read_text().endswith("\n") and not wish.exists(), 20, text)
        until(lambda: not desk.runs(), 60, f"{text} has ended")
        return answer.read_text()

    assert "No planned migration operations" in wished("plan\n")
    assert "Superuser created successfully" in wished(f"createsuperuser\ncarl\ncarl@example.org\n{PASSWORD}\n")
    assert '"format c:" is no task; there are restart, check, unpack' in wished("format c:")
    assert "RF0703" in log(desk.site)
    assert "restart: asked for" in wished("restart")
    assert PASSWORD not in log(desk.site)
    desk.site.configure(OWNER + SETTINGS)
    until(lambda: "The log is the web server" in desk.words("/log"), 20, "the new settings are live")
    wish.write_text("plan")
    give(wish)
    verdict, _ = desk.do("check-deploy")
    assert verdict == "done" and wish.exists(), "tasks = true is gone"


def test_packages_without_a_network(desk):
    (desk.site.home / "venv").unlink()
    verdict, _ = desk.do("install")
    assert "there is neither requirements.txt nor a directory wheels" in verdict
    wheel(desk.site.home / "wheels", "fruit")
    (desk.site.project / "requirements.txt").write_text("fruit==1.0\n")
    verdict, output = desk.do("install", 140)
    assert verdict == "done" and "Successfully installed fruit-1.0" in output, output
    python = desk.site.project / "venv" / "bin" / "python"
    assert run(python, "-c", "import fruit; print(fruit.WHO)") == "from the wheel\n"
    (desk.site.project / "requirements.txt").write_text("fruit==2.0\n")
    verdict, output = desk.do("install")
    assert verdict == "failed with status 1" and "No matching distribution found for fruit==2.0" in output


def archive(site, members):
    path = site.home / "project.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    give(path)


def test_an_uploaded_project(desk):
    site = desk.site
    verdict, _ = desk.do("unpack")
    assert "there is no" in verdict and "project.zip" in verdict
    files = [f for f in site.project.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    members = [(f"myproject/{f.relative_to(site.project)}", f.read_bytes()) for f in files]
    members = [(n, b'VERSION = "8"\n' if n.endswith("version.py") else c) for n, c in members]
    (site.project / "db.sqlite3").write_bytes(b"SQLite format 3\0 the site's own")
    (site.project / "myproject" / "data").mkdir()
    for name in ("shop.db", "shop.db-wal"):
        (site.project / "myproject" / "data" / name).write_bytes(b"SQLite format 3\0 the site's own")
    archive(site, [*members, ("myproject/db.sqlite3", b"SQLite format 3\0 from home")])
    (site.project / "myproject" / "mine.txt").write_text("kept")
    verdict, output = desk.do("unpack")
    assert verdict == "done", output
    assert (site.project / "myproject" / "version.py").read_text() == 'VERSION = "8"\n'
    assert (site.project / "db.sqlite3").read_bytes().endswith(b"the site's own")
    kept = [path.name for path in (site.project / "myproject" / "data").iterdir()]
    assert sorted(kept) == ["shop.db", "shop.db-wal"], "databases stay, wherever they are"
    (old,) = site.home.glob("myproject.old-*")
    assert (old / "myproject" / "mine.txt").read_text() == "kept" and str(old) in output
    assert (old / "db.sqlite3").read_bytes().endswith(b"from home")
    assert not list(site.home.glob(".unpacking-*"))
    desk.begin("restart")
    until(lambda: "8" in desk.apache.client.get("/version/").text, 20, "the new project serves")


def test_archives_that_reach_elsewhere(desk):
    site = desk.site
    good = ("myproject/myproject/settings.py", "X = 1\n")
    link = zipfile.ZipInfo("myproject/link")
    link.external_attr = 0o120777 << 16
    for member, why in [
        (("myproject/../../evil", "x"), "would be written elsewhere"),
        (("/etc/evil", "x"), "would be written elsewhere"),
        (("myproject\\..\\..\\evil", "x"), "would be written elsewhere"),
        ((link, "/etc"), "neither a file nor a directory"),
    ]:
        archive(site, [good, member])
        verdict, output = desk.do("unpack")
        assert verdict == "failed with status 1" and why in output, output
    archive(site, [("other/settings.py", "x")])
    assert "does not hold the project" in desk.do("unpack")[1]
    (site.home / "project.zip").write_text("no archive")
    assert desk.do("unpack")[0] == "failed with status 1"
    assert not list(site.home.glob("myproject.old-*")) and not list(site.base.rglob("*evil*"))


def test_the_log_is_shown_and_sent(desk):
    words = desk.words("/log")
    assert "desk: opened from 127.0.0.1" in words
    reply = desk.get("/-/desk/log/download")
    assert reply.headers["Content-Disposition"] == 'attachment; filename="mysite.log"'
    assert "desk: opened from 127.0.0.1" in reply.text and len(reply.body) == int(reply.headers["Content-Length"])
    assert desk.request("HEAD", "/-/desk/log/download").body == b""
    desk.site.configure(OWNER + SETTINGS)
    until(lambda: "The log is the web server's" in desk.words("/log"), 20, "there is no log of its own")
    assert desk.get("/-/desk/log/download").status == 404
