"""htaccess-templates/: what each one lets through and what it keeps, under a real Apache."""

import re
from urllib.parse import unquote

import pytest

from webservers.account import TEMPLATES, give
from webservers.apache import CGI_ONLY, Apache


# In the site's directory, in one below it, and in one that has rewrite rules of its own.
PRIVATE = """
mysite.toml mysite.toml~ mysite.toml.bak mysite.toml.orig mysite.toml_old mysite.toml-1 mysite.toml.save.2 MYSITE.TOML
#mysite.toml# mysite.toml%20(copy) notes.toml mysite.log mysite.log.1 mysite.log.2.gz mysite.pid db.sqlite3
db.sqlite3-journal db.sqlite3-wal db.sqlite3.2024 data.sqlite settings.py settings.py~ settings.py.swp settings.py.txt
settings.pyc mysite.fcgi~ mysite.fcgi.old login.cgi.bak .env .env.swp .mysite.toml.swp .htaccess.bak .git/config
.venv/bin/tool .hidden.html .well-known/.htpasswd
""".split()
PUBLIC = """
robots.txt .well-known/token page.html settings.py.html catalog.html dialog.js mysite.css analog mytoml logs/a.txt
main.logic.js
""".split()
# There are no such files, so these are addresses of the site.
VIRTUAL = """
.well-known/acme .well-known/openid/.x .web/ .web file/tip/.hgignore raw-file/tip/setup.py raw-file/tip/pyproject.toml
other.toml other.toml~ setup.py build.log.1 .git/none .hg/store/.x sub/.other sub/other.py static/.x a.sqlite3
mysite.fcgi/.web/ mysite.fcgi/file/tip/.hgignore mysite.fcgi/setup.py mysite.fcgi/mysite.toml
""".split()
# What this template leaves to the server's own configuration.
ELSEWHERE = {
    "deny": """<FilesMatch "\\.fcgi$">
        SetHandler fcgid-script
    </FilesMatch>
    FallbackResource {base}/mysite.fcgi""",
}


def lay(directory, name, text):
    path = directory / unquote(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def wrong_answers(account, template, below, base="", options=()):
    """What is served of PRIVATE, is not of PUBLIC, and does not reach the site of VIRTUAL; files lie in each of `below`."""
    account.configure('[app]\npath = "{project}"\nwsgi = "where:app"\n[server]\nruntime_dir = "{runtime}"\n')
    settings = account.config.read_text()
    for directory in below:
        for name in PRIVATE:
            lay(account.site, directory + name, "private")
        for name in PUBLIC:
            lay(account.site, directory + name, "public")
    lay(account.site, "mysite.toml", settings)
    if "blog/" in below:
        lay(account.site, "blog/.htaccess", "RewriteEngine On\nRewriteRule ^old$ robots.txt [L]\n")
    give(account.site)
    elsewhere = ELSEWHERE.get(template, "").format(base=base)
    with Apache(account, f"<Directory {account.site}>\nAcceptPathInfo On\n{elsewhere}\n</Directory>\n", options) as apache:
        for directory in below:
            for name in PRIVATE + [name + "/x" for name in PRIVATE] + [".git", ".git/"]:
                reply = apache.client.get(f"{base}/{directory}{name.replace('#', '%23')}")
                if reply.status not in (403, 404) or "X-Answered-By" in reply.headers:
                    yield f"{directory}{name} is served: {reply.status} {reply.body[:20]}"
            for name in PUBLIC:
                reply = apache.client.get(f"{base}/{directory}{name}")
                if (reply.status, reply.body) != (200, b"public"):
                    yield f"{directory}{name} is not served: {reply.status}"
        for name in VIRTUAL:
            reply = apache.client.get(f"{base}/{name}")
            address = "/" + name.removeprefix("mysite.fcgi/")
            if (reply.status, reply.body) != (200, address.encode()):
                yield f"{name} does not reach the site: {reply.status}"


@pytest.mark.parametrize("directory", ["", "shop"])
@pytest.mark.parametrize("template, options", [("site", ()), ("site", CGI_ONLY), ("deny", ())])
def test_files_of_ours_are_private_and_what_is_no_file_is_an_address(make_site, template, options, directory):
    account = make_site(htaccess=template, directory=directory)
    wrong = list(wrong_answers(account, template, ("", "sub/", "blog/"), "/" + directory if directory else "", options))
    assert not wrong, "\n".join(wrong)


def test_the_rewrite_rules_alone_do_the_same(make_site):
    """As on LiteSpeed, which is told to leave <If> out: all but what lies beside rewrite rules of its own."""
    account = make_site()
    text = (account.site / ".htaccess").read_text()
    rules, count = re.subn(r"(?s)\n<IfModule mod_alias.c>.*?\n</IfModule>\n", "\n", text)
    assert count == 1 and "<If " not in rules
    account.put(account.site / ".htaccess", rules)
    wrong = list(wrong_answers(account, "site", ("", "sub/")))
    assert not wrong, "\n".join(wrong)


def test_all_templates_have_the_same_pattern():
    blocks = {}
    for path in sorted(TEMPLATES.glob("*.htaccess")):
        text = path.read_text()
        if "<If " in text:
            lines = re.findall(r"(?m)^ *(?:<If |RewriteCond %{REQUEST_(?:FILENAME|URI)} [^!]).*$", text)
            blocks[path.stem] = [line.strip() for line in lines]
    assert sorted(blocks) == ["deny", "site"]
    (first, *others) = blocks.values()
    assert len(first) == 5 and all(other == first for other in others), blocks


@pytest.mark.parametrize("modules", ["all modules", "no modules"])
@pytest.mark.parametrize("template", sorted(path.stem for path in TEMPLATES.glob("*.htaccess")))
def test_it_needs_no_module_and_no_more_than_file_info(make_site, template, modules):
    """No directive is an error where modules are missing, or where the host allows FileInfo only."""
    account = make_site(htaccess=template)
    (account.site / "robots.txt").write_text("public")
    closes = template == "deny-all"
    extra = f"<Directory {account.public}>\nAllowOverride {'AuthConfig' if closes else 'FileInfo'}\n</Directory>\n"
    with Apache(account, extra, options=("-D", "BARE") if modules == "no modules" else ()) as apache:
        assert apache.client.get("/robots.txt").status == (403 if closes else 200)
    assert "not allowed here" not in apache.log()


def test_a_missing_executable_is_not_a_loop(make_site):
    account = make_site()
    account.executable.unlink()
    with Apache(account) as apache:
        assert apache.client.get("/some/page/").status == 404
        assert "redirects" not in apache.log()


def test_uploads_are_sent_and_never_run(make_site):
    account = make_site()
    media = account.site / "media"
    media.mkdir()
    for name in ("mysite.fcgi", "evil.cgi", "page.html", "a.0123456789ab.css"):
        (media / name).write_text("#!/bin/sh\necho Content-Type: text/plain; echo; echo it ran\n")
        (media / name).chmod(0o755)
    account.htaccess("static-media", media)
    give(media)
    with Apache(account) as apache:
        web = apache.client
        for name in ("mysite.fcgi", "evil.cgi"):
            response = web.get("/media/" + name)
            assert response.status == 200 and response.text.startswith("#!/bin/sh"), name
            assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert web.get("/media/page.html").headers["Content-Security-Policy"] == "sandbox"
        assert "immutable" in web.get("/media/a.0123456789ab.css").headers["Cache-Control"]
        assert web.get("/media/missing.png").status == 404
        assert web.get("/media/.htaccess").status in (403, 404)
        assert web.get("/version/").text == "0"


def test_authorization_alone(make_site):
    """The rules for the executable stand elsewhere: here in the server's own configuration."""
    account = make_site(htaccess="authorization")
    extra = f"""<Directory {account.public}>
        <FilesMatch "\\.fcgi$">
            SetHandler fcgid-script
        </FilesMatch>
        FallbackResource /mysite.fcgi
    </Directory>"""
    with Apache(account, extra) as apache:
        told = apache.client.get("/echo/x/", Authorization="Token t").json
        assert told["environ"]["HTTP_AUTHORIZATION"] == "Token t"
        assert told["path_info"] == "/echo/x/" and told["environ"]["SCRIPT_NAME"] == ""


def test_the_project_inside_public_html_is_closed(make_site):
    account = make_site()
    inside = account.public / "project"
    inside.mkdir()
    (inside / "data.txt").write_text("private")
    account.htaccess("deny-all", inside)
    give(inside)
    with Apache(account) as apache:
        assert apache.client.get("/project/data.txt").status == 403
        assert apache.client.get("/project/").status == 403
