"""The README's start with FTP only, step by step: its own blocks at home, an upload, and a site with its admin."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from webservers.account import ADMIN, REPOSITORY, give
from webservers.apache import Apache

README = (REPOSITORY / "README.md").read_text()
SECTION = README.partition("## Start with FTP only")[2].partition("\n## ")[0]


def block(language, containing):
    """The one block of code in the section with these words in it."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL) if containing in text]
    assert len(found) == 1, (language, containing, found)
    return found[0]


@pytest.fixture(scope="module")
def home(build, tmp_path_factory):
    """The owner's own computer, where all that the README tells has been typed."""
    home = tmp_path_factory.mktemp("home")
    (home / "public_html").mkdir()
    # The Python of the account's host: a plain one, with pip.
    subprocess.run(["/usr/bin/python3", "-m", "venv", home / "bin"], check=True)
    env = {"PATH": f"{home}/bin/bin:/usr/bin:/bin", "HOME": str(home), "DJANGO_SUPERUSER_PASSWORD": ADMIN[1]}

    def type_in(text):
        subprocess.run(["sh", "-euc", text], cwd=home, env=env, check=True, stdin=subprocess.DEVNULL)

    subprocess.run([sys.executable, "-m", "django", "startproject", "myproject"], cwd=home, check=True)
    with open(home / "myproject" / "myproject" / "settings.py", "a") as settings:
        settings.write(block("python", "ALLOWED_HOSTS").replace("www.example.com", "127.0.0.1"))
    places = {"/where/you/put/runfcgi": str(build), "/where/you/put": str(REPOSITORY)}
    for command in block("sh", "createsuperuser").splitlines():
        for place, real in places.items():
            command = command.replace(place, real)
        # Nobody is at the keyboard.
        command = command.replace("createsuperuser", f"createsuperuser --no-input --username {ADMIN[0]} --email a@example.com")
        type_in(command)
    (home / "public_html" / "mysite.toml").write_text(block("toml", "settings ="))
    shutil.rmtree(home / "bin")
    return home


@pytest.fixture
def host(home, make_site):
    """An account with nothing in it but what was uploaded."""
    account = make_site()
    for path in (account.public, account.project, account.home / "venv", account.home / "db"):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    for name in ("public_html", "myproject"):
        shutil.copytree(home / name, account.home / name)
    account.executable.chmod(0o755)
    give(account.home)
    return account


def test_the_site_and_its_admin(host):
    with Apache(host) as apache:
        web = apache.client
        assert web.get("/").status == 404, "startproject has no page of its own but with DEBUG"
        page = web.get("/admin/login/")
        sheet = re.search(r'<link rel="stylesheet" href="([^"]+)"', page.text).group(1)
        assert page.status == 200 and web.get(sheet).headers["Content-Type"].startswith("text/css")
        token = re.search('name="csrfmiddlewaretoken" value="([^"]+)"', page.text).group(1)
        form = f"csrfmiddlewaretoken={token}&username={ADMIN[0]}&password={ADMIN[1].replace(' ', '+')}&next=/admin/"
        web.post("/admin/login/", form.encode(), Content_Type="application/x-www-form-urlencoded", Referer="http://127.0.0.1/")
        assert "Site administration" in web.get("/admin/").text


def test_which_python_the_host_has(host):
    (host.project / "hello.py").write_text(block("python", "import sys"))
    assert 'write\n`wsgi = "hello:app"` in place of the line `settings`' in SECTION
    text = host.config.read_text()
    host.put(host.config, re.sub(r"(?m)^settings = .*$", 'wsgi = "hello:app"', text))
    with Apache(host) as apache:
        assert re.match(r"3\.\d+\.\d+", apache.client.get("/").text)


def test_packages_with_compiled_parts(host):
    command = block("sh", "--only-binary").replace("3.11", ".".join(map(str, system_python())))
    subprocess.run(["sh", "-euc", f"alias python3={sys.executable}\n" + command], cwd=host.home, check=True)
    speedups = list((host.project / "markupsafe").glob("_speedups*.so"))
    assert len(speedups) == 1
    (host.project / "hello.py").write_text(
        "from markupsafe import _speedups\n\ndef app(environ, start_response):\n"
        '    start_response("200 OK", [])\n    return [_speedups.__file__.encode()]\n'
    )
    give(host.project)
    host.put(host.config, '[app]\npath = "../myproject"\nwsgi = "hello:app"\n')
    with Apache(host) as apache:
        assert Path(apache.client.get("/").text).resolve() == speedups[0]


def test_whitenoise_goes_on_working(host):
    assert "WhiteNoise is not needed" in README
    subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--target", host.project, "whitenoise"], check=True)
    shutil.rmtree(host.public / "static")
    with open(host.project / "myproject" / "settings.py", "a") as settings:
        settings.write('MIDDLEWARE.insert(1, "whitenoise.middleware.WhiteNoiseMiddleware")\nSTATIC_ROOT = BASE_DIR / "collected"\n')
    subprocess.run([sys.executable, "manage.py", "collectstatic", "--no-input", "-v0"], cwd=host.project, check=True)
    give(host.project)
    with Apache(host) as apache:
        assert apache.client.get("/static/admin/css/base.css").headers["Content-Type"].startswith("text/css")


def system_python():
    said = subprocess.run(["/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=True)
    return [int(number) for number in said.stdout.split()]


def test_a_flask_like_app(make_site):
    account = make_site()
    section = README.partition("### Flask and other WSGI applications")[2]
    app = account.home / "myapp"
    app.mkdir()
    (app / "app.py").write_text('def app(environ, start_response):\n    start_response("200 OK", [])\n    return [b"it runs"]\n')
    give(app)
    account.put(account.config, re.search(r"```toml\n(.*?)```", section, re.DOTALL).group(1))
    with Apache(account) as apache:
        assert apache.client.get("/").text == "it runs"
