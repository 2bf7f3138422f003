"""Help, the completions of bash and zsh, and the manual page: they all tell the same commands and options."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

COMMANDS = ["runfcgi", "init", "check", "status", "explain", "help", "completions", "man", "version"]


@pytest.fixture(scope="module")
def program(build, tmp_path_factory):
    """The executable, under the name of a site that a shell has to quote."""
    path = tmp_path_factory.mktemp("it's here") / "my site.fcgi"
    shutil.copy(build, path)
    return path


def run(program, *words, status=0):
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=20)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stdout if status == 0 else done.stderr


def test_help_lists_the_commands(program):
    assert re.findall(r"^  (\w+) ", run(program, "help"), re.MULTILINE) == COMMANDS
    assert "--config FILE  " in run(program, "help", "check")
    assert "the name of a shell is missing; bash|zsh" in run(program, "completions", "fish", status=2)


def completed_by_bash(program, line):
    """What bash offers for a line with the cursor at its end, split into words as readline does."""
    words = [word for part in line.split(" ") for word in (re.findall(r"=|[^=]+", part) or [""])]
    script = """
        source <("$1" completions bash)
        compopt() { :; }
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        $(complete -p "my site.fcgi" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "--norc", "-euc", script, "bash", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=program.parent, timeout=20)
    assert (done.returncode, done.stderr) == (0, ""), (done.stdout, done.stderr)
    return done.stdout.split("\n")[:-1]


OFFERED = {
    "x ch": ["check"],
    "x check --": ["--json", "--config", "--url", "--help"],
    "x check --url h": [""],
    "x status --js": ["--json"],
    "x check --config my": ["my site.fcgi"],
    "x check --config=my": ["my site.fcgi"],
    "x init --pro": ["--project"],
    "x init --project my": [""],
    "x runfcgi met": ["method="],
    "x runfcgi method=": ["prefork", "threaded"],
    "x runfcgi method=th": ["threaded"],
    "x runfcgi socket=my": ["my site.fcgi"],
    "x runfcgi daemonize=f": ["false"],
    "x runfcgi port=8": [""],
    "x explain RF010": [f"RF010{n}" for n in range(6)],
    "x help que": ["queue", "queue_timeout"],
    "x completions ": ["--help", "bash", "zsh"],
}


@pytest.mark.parametrize("line", OFFERED)
def test_bash_completes(program, line):
    offered = completed_by_bash(program, line)
    assert [word for word in offered if word != "--help" or "--help" in OFFERED[line]] == OFFERED[line]


def test_bash_offers_all_commands(program):
    assert completed_by_bash(program, "x ")[: len(COMMANDS)] == COMMANDS


class Shell:
    """A shell in a terminal, to whom we type."""

    def __init__(self, command, cwd):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="dumb", PS1="$ ", HOME=str(cwd), LC_ALL="C.UTF-8")
            os.execvp(command[0], command)
        self.seen = ""

    def type(self, text, until):
        """Types the text and waits until the terminal shows what matches `until`."""
        self.seen = ""
        os.write(self.terminal, text.encode())
        end = time.monotonic() + 20
        while not re.search(until, self.seen):
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r}: {until!r} did not come: {self.seen!r}"
            self.seen += os.read(self.terminal, 4096).decode(errors="replace")

    def close(self):
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "echo rea''dy\n"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit && compinit -D -u; echo rea''dy\n"),
}


@pytest.mark.parametrize("name", SHELLS)
def test_in_a_terminal(program, name):
    command, begin = SHELLS[name]
    if not shutil.which(name):
        pytest.skip(f"there is no {name}")
    shutil.copy(program, program.with_name("mysite.fcgi"))  # no shell completes after a command in quotes
    shell = Shell(command, program.parent)
    try:
        shell.type(begin, r"\nready")
        shell.type(f"source <(./mysite.fcgi completions {name}); echo don''e\n", r"\ndone")
        for typed, completed in (
            ("./mysite.fcgi che\t", "check"),
            ("./mysite.fcgi check --js\t", "check --json"),
            ("./mysite.fcgi runfcgi meth\tthr\t", "runfcgi method=threaded"),
            ("./mysite.fcgi init --project /us\t", "init --project /usr/?"),
        ):
            # Ctrl-A and `echo` make the line harmless; the empty quotes tell what it prints from what is typed.
            shell.type(f"{typed}\x01echo \x05.''.\n", rf"\n\./mysite\.fcgi {completed} ?\.\.\r")
    finally:
        shell.close()


def test_the_script_for_zsh_is_correct(program, tmp_path):
    if not shutil.which("zsh"):
        pytest.skip("there is no zsh")
    (tmp_path / "script").write_text(run(program, "completions", "zsh"))
    done = subprocess.run(["zsh", "-n", tmp_path / "script"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["groff", "-man", "-ww", "-Tutf8", "-P-cbou"], ["man", "--warnings=w", "-l"]], ids=["groff", "man"])
def test_the_manual(program, tmp_path, command):
    if not shutil.which(command[0]):
        pytest.skip(f"there is no {command[0]}")
    page = tmp_path / "runfcgi.1"
    page.write_text(run(program, "man"))
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "100"}
    done = subprocess.run([*command, page], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    assert "runfcgi - runs a Django site" in shown
    for name in COMMANDS:
        assert f"mysite.fcgi {name}" in shown, name
    options = re.findall(r"^  (\w+) +\S", run(program, "help", "runfcgi").partition("Examples")[0], re.MULTILINE)
    assert len(options) > 30
    for option in options[:-2]:
        assert f" {option} = " in shown, option
    for text in ("--project DIRECTORY", 'method = "threaded"', "EXIT STATUS 0 success", "[limits]"):
        assert text in shown, text
