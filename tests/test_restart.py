"""Restart without a gap, under load, behind Apache mod_fcgid, lighttpd with bin-path, and nginx with a server of its own.

Each server runs the whole module through, so each restart is also one of a process that has restarted before.
"""

import fcntl
import shutil
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from plain_site import RUN_AS, Plain, ask, kill
from servers_under_load import SERVERS, Visits, print_log
from webservers import processes
from webservers.account import Account, give
from webservers.fastcgi import request
from webservers.manager import Manager
from webservers.processes import until

CONFIG = """\
[app]
path = "{project}"
settings = "myproject.settings"
[server]
runtime_dir = "{runtime}"
maxchildren = 4
[log]
file = "{log}"
"""
ENV = """\
[env]
MARKS = "{marks}"
NUMBER = "{number}"
IMPORT_SECONDS = "0.3"
"""


@pytest.fixture(scope="module", params=SERVERS)
def server(request, build, model):
    """A running server with the Django site behind it, the same for all tests of the module."""
    if not shutil.which(request.param, path="/usr/sbin:/usr/bin"):
        pytest.skip("not installed")
    account = Account(model, build)
    account.logged = account.home / "site.log"
    account.number = 0
    account.posts = request.param == "nginx"
    configure(account)
    try:
        with SERVERS[request.param](account) as running:
            running.name = request.param
            if request.param != "nginx":
                running.targets = [(running.port, "GET", "/version/")]
            yield running
        left = {}
        try:
            until(lambda: not processes.touching(account.base), 8, "all have left")
        except AssertionError:
            left = processes.touching(account.base)
            processes.end(left)
        print_log(account.logged)
        assert not left, f"still there after the server has stopped: {left}"
        assert processes.left_behind(account.runtime) == []
    finally:
        account.remove()


def configure(account, number=0):
    """`number`: so that it says something else. Where bodies are posted it is the app that has no forms."""
    text = CONFIG.replace("{log}", str(account.logged)) + ENV.format(marks=account.home, number=number)
    account.configure(text.replace('settings = "myproject.settings"', 'wsgi = "faults:app"') if account.posts else text)


@pytest.fixture(scope="module", autouse=True)
def old_class(build, model):
    """Two processes of a file that was renamed away, and one of the new file. It takes them a minute to leave, in
    which the other tests of this module run."""
    account = Account(model, build)
    account.number = 1
    site = Plain(account)
    try:
        with Manager(account, **RUN_AS) as manager:
            fronts = [manager.spawn() for _ in range(2)]
            for front in fronts:
                ask(front, "/version")
            account.code(1)
            renamed(account)
            until(lambda: ask(fronts[0], "/version").text == "1", 6, "the new file is live in the old process")
            asked = time.monotonic()
            fresh = manager.spawn()
            ask(fresh, "/version")
            until(lambda: len(site.workers()) == 1, 9, "the old processes keep no worker")
            yield site, manager, fronts, fresh, asked
        until(site.gone, 5, "all have left")
    finally:
        processes.end(processes.touching(account.base))
        account.remove()


# --- what an owner does --------------------------------------------------------------------------------------------


def touch(account):
    account.touch()


def changed_configuration(account):
    configure(account, account.number)


def another_image(account):
    """The same program with another content: what follows an ELF file's sections is nobody's."""
    return account.executable.read_bytes() + b"#%d\n" % account.number


def write_new(account, path, image):
    path.write_bytes(image)
    path.chmod(0o755)
    give(path)


def overwritten(account):
    """What most FTP clients do. The file is open, short and broken for a moment."""
    image = another_image(account)
    with open(account.executable, "r+b", buffering=0) as file:
        file.truncate(0)
        file.write(image[: len(image) // 2])
        time.sleep(0.05)
        file.write(image[len(image) // 2 :])


def slowly_uploaded(account):
    """Half of it lies there for longer than the time that an upload must stand still."""
    image = another_image(account)
    with open(account.executable, "r+b", buffering=0) as file:
        file.truncate(0)
        file.write(image[: len(image) // 2])
        time.sleep(2.5)
        for begin in range(len(image) // 2, len(image), 1 << 18):
            file.write(image[begin : begin + (1 << 18)])
            time.sleep(0.1)


def renamed(account):
    fresh = account.executable.with_name("fresh")
    write_new(account, fresh, another_image(account))
    fresh.rename(account.executable)


def deleted_and_uploaded(account):
    image = another_image(account)
    account.executable.unlink()
    write_new(account, account.executable, image)


CHANGES = {
    "touch": (touch, 3),
    "configuration": (changed_configuration, 6),
    "overwritten": (overwritten, 6),
    "slow upload": (slowly_uploaded, 6),
    "rename": (renamed, 6),
    "delete and upload": (deleted_and_uploaded, 6),
}


@pytest.mark.parametrize("change", CHANGES)
def test_new_code_goes_live_without_a_gap(server, change):
    act, within = CHANGES[change]
    account = server.account
    with Visits(server) as load:
        account.number += 1
        new = str(account.number)
        account.code(account.number)
        broken = server.name == "apache2" and change in ("overwritten", "slow upload", "delete and upload")
        begin = time.monotonic()
        act(account)
        moment = time.monotonic()
        load.wait_for(new)
        time.sleep(0.3)
    # Before the end of an upload Apache may spawn another process of a file that is not there, or that it cannot execute
    # yet, and says so itself: that is not ours to answer.
    of_apache = {403: "Forbidden", 404: "Not Found", 500: "internal error or\nmisconfiguration"}
    failures = [
        a for a in load.failures
        if not (broken and a.begin < moment and a.status in of_apache and of_apache[a.status] in str(a.body))
    ]  # fmt: skip
    live, gap = load.first(new) - moment, load.gap(begin)
    late = [a for a, v in zip(load.answers, load.versions) if a.begin > moment + within and v != new]
    print(
        f"{server.name}, {change}: {len(load.answers)} answers, {len(failures)} failed, live after {live:.2f} s,"
        f" longest gap {gap * 1000:.0f} ms"
    )
    assert not failures, f"{len(failures)}: {failures[:3]}"
    assert live <= within and not late
    assert gap < 0.5


def test_a_broken_configuration_changes_nothing(server):
    account = server.account
    before = account.logged.stat().st_size
    with Visits(server) as load:
        account.put(account.config, account.config.read_text() + "[app\n")
        until(lambda: "mysite.toml" in account.logged.read_text()[before:], 6, "the log says what is wrong")
        time.sleep(0.5)
        configure(account)
        time.sleep(1)
    assert not load.failures, load.failures[:3]


def test_broken_code_changes_nothing_and_mended_code_goes_live(server):
    account = server.account
    account.number += 1
    before = account.logged.stat().st_size
    with Visits(server) as load:
        # The processes may still be changing over, one after the other, to the code of the test before.
        until(lambda: len(load.answers) > 80 and len(set(load.versions[-80:])) == 1, 8, "all have the same code")
        old, seen = load.versions[-1], len(load.answers)
        account.put(account.project / "myproject" / "version.py", "def broken(:\n")
        account.touch()
        until(lambda: "SyntaxError" in account.logged.read_text()[before:], 5, "the log says why")
        time.sleep(1)
        assert set(load.versions[seen:]) == {old}
        account.code(account.number)
        account.touch()
        moment = time.monotonic()
        load.wait_for(str(account.number))
        live = load.first(str(account.number)) - moment
        time.sleep(0.3)
    print(f"{server.name}, mended code: live after {live:.2f} s")
    assert not load.failures, load.failures[:3]
    assert live <= 3


def test_a_broken_executable_changes_nothing(server):
    account = server.account
    image = account.executable.read_bytes()
    if server.name == "apache2":
        # So many processes that mod_fcgid starts no further one, which would be the broken executable.
        with ThreadPoolExecutor(5) as visitors:
            paths = [f"/slow/?seconds=1&mark=m{n}" for n in range(5)]
            assert {reply.status for reply in visitors.map(server.client.get, paths)} == {200}
    with Visits(server) as load:
        for broken in (image[: len(image) // 2], b"<html>not found</html>"):
            fresh = account.executable.with_name("fresh")
            write_new(account, fresh, broken)
            before = account.logged.stat().st_size
            with open(account.executable, "r+b", buffering=0) as file:
                file.truncate(0)
                file.write(broken)
            fresh.unlink()
            until(lambda: "keeping the old one" in account.logged.read_text()[before:], 6, "the log says why")
        with open(account.executable, "r+b", buffering=0) as file:
            file.truncate(0)
            file.write(image)
        account.number += 1
        account.code(account.number)
        account.touch()
        load.wait_for(str(account.number))
    assert not load.failures, load.failures[:3]


# --- spawned as mod_fcgid spawns -----------------------------------------------------------------------------------


def test_a_process_spawned_while_new_code_is_broken_serves_the_old(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        assert ask(front, "/version").text == "0"
    site.account.put(site.account.project / "myproject" / "version.py", "def broken(:\n")
    site.account.touch()
    until(lambda: "SyntaxError" in site.log(), 5, "the log says why")
    fronts.append(manager.spawn())
    for _ in range(3):
        for front in fronts:
            assert ask(front, "/version").text == "0"
        time.sleep(0.5)
    site.account.code(7)
    site.account.touch()
    moment = time.monotonic()
    for front in fronts:
        until(lambda: ask(front, "/version").text == "7", 5, "the mended code is live")
    print(f"all fronts have the mended code after {time.monotonic() - moment:.2f} s")
    assert time.monotonic() - moment < 3.5


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1], ids=["HUP", "USR1"])
def test_a_signal_does_what_a_touch_does(make_plain, manage, number):
    site = make_plain()
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(2)]
    for front in fronts:
        ask(front, "/version")
    imports = len(site.imports())
    site.account.code(3)
    kill(fronts[0].pid, number)
    for front in fronts:
        until(lambda: ask(front, "/version").text == "3", 3, "new code is live")
    assert all(manager.status_of(front) is None for front in fronts), "the processes stay"
    assert len(site.imports()) == imports + 1


def test_ten_fronts_change_over_with_one_import(make_plain, manage):
    site = make_plain(env='IMPORT_SECONDS = "0.3"')
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(10)]
    for front in fronts:
        ask(front, "/version")
    over = threading.Event()
    replies = []

    def visit(front):
        while not over.is_set():
            replies.append(request(front.socket, "/version"))
            over.wait(0.02)

    threads = [threading.Thread(target=visit, args=(front,)) for front in fronts]
    for thread in threads:
        thread.start()
    most = 0
    for version in (1, 2):
        site.account.code(version)
        site.account.touch()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            most = max(most, len(site.workers()) + len(site.preloaders()))
            time.sleep(0.05)
        assert all(ask(front, "/version").text == str(version) for front in fronts)
    over.set()
    for thread in threads:
        thread.join()
    print(f"{len(replies)} answers over two touches, at most {most} processes of Python, {len(site.imports())} imports")
    assert Counter(reply.status for reply in replies).keys() == {200}
    assert len(site.imports()) == 3
    assert len(site.preloaders()) == 1
    until(lambda: len(site.workers()) == 10, 5, "old workers have left")


@pytest.mark.parametrize("how", ["touch", "configuration"])
def test_fronts_take_turns_and_depend_on_nobody(make_plain, manage, how):
    site = make_plain()
    manager = manage(site)
    fronts = [manager.spawn() for _ in range(3)]
    for front in fronts:
        ask(front, "/version")

    def change(version):
        site.account.code(version)
        imports = len(site.imports())
        if how == "touch":
            site.account.touch()
        else:
            site.account.put(site.account.config, site.account.config.read_text() + f"# {version}\n")
        until(lambda: len(site.imports()) > imports, 6, "the new code is imported")

    with open(site.account.runtime / "turn", "w") as turn:  # as a front that has the turn and stands still
        give(site.account.runtime / "turn")
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = set(site.workers())
        change(1)
        time.sleep(1)
        assert [ask(front, "/version").text for front in fronts] == ["0"] * 3
        assert set(site.workers()) == before, "no worker is started before it is a front's turn"
        fcntl.flock(turn, fcntl.LOCK_UN)
        until(lambda: [ask(front, "/version").text for front in fronts] == ["1"] * 3, 2, "the new code is live")
        fcntl.flock(turn, fcntl.LOCK_EX)
        change(2)
        until(lambda: [ask(front, "/version").text for front in fronts] == ["2"] * 3, 7, "they do not wait for ever")
    assert len(site.imports()) == 3


def test_many_touches_coalesce(make_plain, manage):
    site = make_plain(env='IMPORT_SECONDS = "0.2"')
    front = manage(site).spawn()
    ask(front, "/version")
    for version in range(1, 21):
        site.account.code(version)
        site.account.touch()
        ask(front, "/version")
        time.sleep(0.1)
    until(lambda: ask(front, "/version").text == "20", 3, "the newest code is live")
    assert len(site.imports()) <= 6
    until(lambda: len(site.preloaders()) == 1, 5, "one preloader is left")


def test_a_process_spawned_while_the_configuration_is_broken_serves_the_old_code(make_plain, manage):
    site = make_plain()
    manager = manage(site)
    assert ask(manager.spawn(), "/version").text == "0"
    config = site.account.config
    site.account.put(config, config.read_text() + "[app\n")
    assert ask(manager.spawn(), "/version").text == "0"


def test_a_restart_txt_that_is_deleted_puts_new_code_live_everywhere(make_plain, manage):
    """Else a process that starts later would import the app once more, and older ones would stay with what they have."""
    site = make_plain()
    restart = site.account.project / "tmp" / "restart.txt"
    restart.parent.mkdir()
    restart.write_text("")
    give(restart.parent)
    manager = manage(site)
    fronts = [manager.spawn()]
    assert ask(fronts[0], "/version").text == "0"
    site.account.code(1)
    restart.unlink()
    until(lambda: ask(fronts[0], "/version").text == "1", 5, "new code is live")
    fronts.append(manager.spawn())
    assert [ask(front, "/version").text for front in fronts] == ["1", "1"]
    assert len(site.imports()) == 2
    until(lambda: len(site.preloaders()) == 1, 5, "one preloader is left")


def test_how_exit_leaves_for_the_web_server_to_start_anew(make_plain, manage):
    site = make_plain(restart='how = "exit"')
    manager = manage(site)
    front = manager.spawn()
    ask(front, "/version")
    site.account.code(5)
    site.account.touch()
    until(lambda: manager.status_of(front) is not None, 5, "it has left")
    assert manager.status_of(front) == 0
    assert ask(manager.spawn(), "/version").text == "5"


def test_a_process_of_an_old_inode_has_left_by_itself(old_class):
    """mod_fcgid sends it nothing any more and never ends it."""
    site, manager, fronts, fresh, asked = old_class
    until(lambda: all(manager.status_of(front) is not None for front in fronts), 75, "the old ones have left")
    if time.monotonic() - asked < 50:
        pytest.fail("they left before stragglers could have come")
    assert [manager.status_of(front) for front in fronts] == [0, 0]
    assert ask(fresh, "/version").text == "1"
