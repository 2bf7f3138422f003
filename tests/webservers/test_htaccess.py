"""htaccess-templates/: what each one lets through and what it keeps, under a real Apache."""

import pytest

from webservers.account import TEMPLATES, give
from webservers.apache import Apache


@pytest.mark.parametrize("template", ["fcgid", "fastcgi", "cgi", "subdirectory", "deny"])
def test_private_files_are_not_served(make_site, template):
    account = make_site(htaccess=template)
    for name in ("mysite.log", "db.sqlite3", "settings.py", ".env", ".git/config", "notes.toml"):
        path = account.site / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("private")
        give(path.parent if "/" in name else path)
    (account.site / "robots.txt").write_text("public")
    (account.site / ".well-known").mkdir()
    (account.site / ".well-known" / "token").write_text("public")
    give(account.site / ".well-known")
    with Apache(account) as apache:
        web = apache.client
        for name in ("mysite.log", "db.sqlite3", "settings.py", ".env", ".git/config", "notes.toml", "mysite.toml", ".git/"):
            response = web.get("/" + name)
            assert response.status in (403, 404) and b"private" not in response.body, name
        assert web.get("/robots.txt").text == "public"
        assert web.get("/.well-known/token").text == "public"


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
