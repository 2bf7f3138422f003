"""`private_copy = false`: the uploaded file itself runs. What its owner can do with it then."""

import errno
import os

import pytest

from plain_site import request
from webservers.account import give
from webservers.apache import Apache
from webservers.processes import until


def images(site):
    """The files that the fronts run."""
    return {os.readlink(f"/proc/{pid}/exe") for pid in site.fronts()}


def upload(path, content):
    path.write_bytes(content)
    path.chmod(0o755)
    give(path)


def test_the_uploaded_file_runs_and_is_replaced(make_plain):
    site = make_plain()
    account, executable = site.account, site.account.executable
    content = executable.read_bytes()
    with Apache(account) as apache:

        def live(version):
            until(lambda: apache.client.get("/version").text == version, 10, f"version {version} is live")

        live("0")
        assert images(site) and str(executable) not in images(site)
        account.put(account.config, account.config.read_text().replace("[limits]", "private_copy = false\n[limits]"))
        until(lambda: images(site) == {str(executable)}, 10, "the new setting is live")

        account.code(1)
        account.touch()
        live("1")
        with pytest.raises(OSError) as refused:
            executable.open("r+b")
        assert refused.value.errno == errno.ETXTBSY, "an FTP server cannot overwrite it"

        account.code(2)
        upload(executable.with_name("fresh"), content + b"#2")
        executable.with_name("fresh").rename(executable)
        live("2")
        account.code(3)
        executable.unlink()
        upload(executable, content + b"#3")
        live("3")
        until(lambda: images(site) == {str(executable)}, 10, "the new file runs")


def test_there_is_no_copy_while_the_settings_are_wrong(make_plain, manage):
    site = make_plain(server="private_copy = false\nnonsense = 1")
    front = manage(site).spawn()
    assert request(front.socket, "/version").status == 500
    assert images(site) == {str(site.account.executable)}
