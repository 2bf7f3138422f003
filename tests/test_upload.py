"""A process that starts while its settings are being uploaded."""

import shutil
import socket
import subprocess
import threading
import time

import peers

APP = "def app(environ, start):\n    start('200 OK', [('Content-Type', 'text/plain')])\n    return [b'whole']\n"
SETTINGS = '[app]\nwsgi = "app:app"\npython = "/usr/bin/python3"\n[server]\nruntime_dir = "run"\n'


def test_a_visitor_waits_for_settings_that_are_coming_in(build, tmp_path):
    (tmp_path / "app.py").write_text(APP)
    executable = shutil.copy(build, tmp_path / "mysite.fcgi")
    settings, address = tmp_path / "mysite.toml", str(tmp_path / "s.sock")
    settings.write_text(SETTINGS[:12])
    settings.chmod(0o644)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        front = subprocess.Popen([executable], stdin=listener, cwd=tmp_path)
    answers = []
    visitor = threading.Thread(target=lambda: answers.append(peers.fastcgi(address)))
    try:
        visitor.start()
        for end in (30, 60, len(SETTINGS)):
            time.sleep(0.6)
            assert not answers
            with settings.open("a") as file:
                file.write(SETTINGS[settings.stat().st_size : end])
        visitor.join(15)
        assert answers and answers[0].startswith("Status: 200") and answers[0].endswith("whole")
        settings.write_text(SETTINGS[:12])
        assert peers.fastcgi(address).endswith("whole"), "what works goes on"
    finally:
        front.terminate()
        front.wait(10)
        visitor.join(5)


def test_a_visitor_is_told_of_settings_that_are_wrong(build, tmp_path):
    executable = shutil.copy(build, tmp_path / "mysite.fcgi")
    settings, address = tmp_path / "mysite.toml", str(tmp_path / "s.sock")
    settings.write_text("[app")
    settings.chmod(0o644)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        front = subprocess.Popen([executable], stdin=listener, cwd=tmp_path)
    try:
        began = time.monotonic()
        assert peers.fastcgi(address).startswith("Status: 500")
        assert time.monotonic() - began < 10
    finally:
        front.terminate()
        front.wait(10)
