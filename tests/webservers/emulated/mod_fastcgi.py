"""Apache with mod_fastcgi, from deploy/apache/mod_fastcgi.conf: as much of its configuration as the file uses.

External: it connects, and there need not be a file. Dynamic: its process manager holds one socket, and starts programs
with it as descriptor 0 and with no environment. A connection for each request, a record for each variable; no chunked
uploads; an answer to HEAD is left as soon as its head is there.
"""

import os
import re
import subprocess
import threading
from pathlib import Path

from ..fastcgi import connect
from .front import Refused, below, header_variables
from .programs import address, listen, spawn
from .wire import Exchange, Way

WAY = Way(record_per_variable=True, piece=8184)
# Options of the FastCgi directives that the file may use; each has a value.
OPTIONS = {"-socket", "-host", "-pass-header", "-idle-timeout", "-singleThreshold", "-maxClassProcesses"}
FLAGS = {"L", "QSA", "PT"}


def words_of(line):
    return [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]


def options_of(words):
    """`-name value …`, as mod_fastcgi reads them."""
    names = words[::2]
    assert len(words) % 2 == 0 and set(names) <= OPTIONS, f"mod_fastcgi does not know {words}"
    return dict(zip(names, words[1::2]))


def second_way(text):
    """The file with its "dynamic" part instead of FastCgiExternalServer."""
    first, dynamic = text.split("# Second way")
    lines = [line for line in first.splitlines() if not line.startswith("FastCgiExternalServer")]
    # The example is what is indented.
    return "\n".join(lines + [line[4:] for line in dynamic.splitlines() if line.startswith("#   ")]) + "\n"


class ModFastcgi:
    """The server."""

    failed = 500
    leaves_after_head = True

    def __init__(self, site, text):
        self.site = site
        self.external, self.dynamic, self.rules, self.granted, self.scripts = {}, None, [], set(), set()
        self.aliases, self.conditions = {}, []
        self.encoded_slashes = self.rewriting = self.executable = False
        self.root = self.ipc = self.listener = None
        self.programs = []
        self.lock = threading.Lock()
        self.inside = []
        for line in re.sub(r"\\\n", "", text).splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                self.read(line.strip())
        assert not self.inside and (self.external or self.dynamic)

    def read(self, line):
        """One line of the configuration; an unknown one is an error, as in Apache."""
        name, *words = words_of(line.strip("<>"))
        # Capitals in the name of a directive do not count.
        name = "FastCgiExternalServer" if name.lower() == "fastcgiexternalserver" else name
        match name, words:
            case "VirtualHost" | "Directory" | "Files", [which]:
                self.inside.append((name, which))
            case "/VirtualHost" | "/Directory" | "/Files", []:
                assert name == "/" + self.inside.pop()[0], line
            case "ServerName", [_]:
                pass
            case "DocumentRoot", [root]:
                self.root = root
            case "Require", ["all", "granted"]:
                self.granted.add(dict(self.inside[-1:])["Directory"])
            case "Options", ["+ExecCGI"]:
                self.executable = True
            case "SetHandler", ["fastcgi-script"]:
                where = dict(self.inside[-2:])
                self.scripts.add(f"{where['Directory']}/{where['Files']}")
            case "RewriteEngine", ["On"]:
                self.rewriting = True
            case "RewriteRule", [pattern, substitution, flags]:
                flags = set(flags.strip("[]").split(","))
                assert flags <= FLAGS and [kind for kind, _ in self.inside] == ["VirtualHost"], line
                self.rules.append((re.compile(pattern), substitution, flags, self.conditions))
                self.conditions = []
            case "RewriteCond", ["%{REQUEST_FILENAME}", "!-f"]:
                # In a virtual host that is the address still, not a path on the disk.
                self.conditions.append(lambda path: not os.path.isfile(path))
            case "Alias", [prefix, directory]:
                self.aliases[prefix.rstrip("/")] = directory.rstrip("/")
            case "AllowEncodedSlashes", ["NoDecode"]:
                self.encoded_slashes = True
            case "FastCgiExternalServer", [program, *more] if not self.inside:
                self.external[program] = options_of(more)
            case "FastCgiIpcDir", [directory] if not self.inside:
                self.ipc = Path(directory)
            case "FastCgiConfig", [*more] if not self.inside:
                self.dynamic = options_of(more)
            case _:
                raise AssertionError(f"Apache does not know the line {line!r} here")

    # --- which address goes where ----------------------------------------------------------------------------------

    def route(self, visit):
        if not self.encoded_slashes and "%2f" in visit.target.partition("?")[0].lower():
            raise Refused(404)
        uri = visit.path(keep_slash=True)
        place = self.place(uri)
        program = next((p for p in [*self.external, *self.scripts] if place == p or place.startswith(p + "/")), None)
        if program is None:
            file = below(place)
            self.allowed(file)
            return file
        self.allowed(Path(program))
        if program in self.scripts:
            if not (self.executable and os.access(program, os.X_OK)):
                raise Refused(403)
            self.start(program)
        if visit.field("Transfer-Encoding"):
            raise Refused(411)
        options = self.external.get(program, self.dynamic)
        return options, [*self.variables(visit, uri, program, place[len(program) :], options)]

    def place(self, uri):
        """Where an address leads on the disk, after the rules; aliases count where no rule has set a path."""
        path, aliases = uri, self.aliases
        for pattern, substitution, flags, conditions in self.rules if self.rewriting else ():
            found = pattern.search(path)
            if not found or not all(condition(path) for condition in conditions):
                continue
            if substitution != "-":
                path = re.sub(r"\$(\d)", lambda group: found[int(group[1])], substitution)
                aliases = self.aliases if "PT" in flags else {}
            if "L" in flags:
                break
        for prefix, directory in aliases.items():
            if path == prefix or path.startswith(prefix + "/"):
                return directory + path[len(prefix) :]
        return self.root + path

    def allowed(self, file):
        if not any(str(file).startswith(directory + "/") for directory in self.granted):
            raise Refused(403)

    def variables(self, visit, uri, program, info, options):
        dropped = {"authorization", "proxy-authorization", "proxy", "content-type", "content-length", "transfer-encoding"}
        fields = {}
        for name, value in visit.fields:
            if re.fullmatch("[A-Za-z0-9-]+", name):
                fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
        yield "SCRIPT_URL", uri
        yield "SCRIPT_URI", f"http://{visit.field('Host')}{uri}"
        yield from header_variables(fields.items(), dropped)
        for name, variable in (("content-type", "CONTENT_TYPE"), ("content-length", "CONTENT_LENGTH")):
            if name in fields:
                yield variable, fields[name]
        yield from {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SERVER_SIGNATURE": "",
            "SERVER_SOFTWARE": "Apache/2.4 (Debian) mod_fastcgi/2.4.7",
            "SERVER_NAME": visit.host,
            "SERVER_ADDR": "127.0.0.1",
            "SERVER_PORT": str(visit.port),
            "REMOTE_ADDR": visit.visitor[0],
            "DOCUMENT_ROOT": self.root,
            "REQUEST_SCHEME": "http",
            "CONTEXT_PREFIX": "",
            "CONTEXT_DOCUMENT_ROOT": self.root,
            "SERVER_ADMIN": "[no address given]",
            "SCRIPT_FILENAME": program,
            "REMOTE_PORT": str(visit.visitor[1]),
        }.items()
        # The header's own name becomes the variable's.
        if "-pass-header" in options and options["-pass-header"].lower() in fields:
            yield options["-pass-header"], fields[options["-pass-header"].lower()]
        yield from {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": visit.protocol,
            "REQUEST_METHOD": visit.method,
            "QUERY_STRING": visit.query,
            "REQUEST_URI": visit.target,
            "SCRIPT_NAME": script_name(uri, info),
        }.items()
        if info:
            yield "PATH_INFO", info
            yield "PATH_TRANSLATED", self.root + info

    # --- the program -----------------------------------------------------------------------------------------------

    def start(self, program):
        """The process manager, asked for a program: as many processes of it as it may have."""
        with self.lock:
            if self.listener is None:
                (self.ipc / "dynamic").mkdir(parents=True)
                self.listener = listen(self.ipc / "dynamic" / "0123456789abcdef")
                for _ in range(int(self.dynamic["-maxClassProcesses"])):
                    self.spawn(program)

    def spawn(self, program):
        process = spawn(self.site, [program], {}, Path(program).parent, self.listener)
        self.programs.append(process)
        return process

    def exchange(self, answer, body):
        options, pairs = answer
        if "-socket" in options or "-host" in options:
            where = address(options.get("-socket") or options["-host"])
        else:
            where = self.listener.getsockname()
        try:
            connection = connect(where, float(options.get("-idle-timeout", 30)))
        except OSError:
            raise Refused(500) from None
        return Exchange(connection, WAY, pairs, body.pieces(WAY.piece))

    def over(self, exchange):
        exchange.close()

    def close(self):
        """Apache stops: SIGTERM to all, and the socket goes."""
        for process in self.programs:
            process.terminate()
        if self.listener:
            os.unlink(self.listener.getsockname())
            self.listener.close()


def script_name(uri, info):
    """What of the address is before PATH_INFO; the visitor's address, since a rule of the virtual host keeps it."""
    same = len(os.path.commonprefix([uri[::-1], info[::-1]]))
    at = len(uri) - same
    while at < len(uri) and uri[at] != "/":
        at += 1
    return uri[:at]


def accepted_by_apache(site, text, modules):
    """The rest of the file goes through a real Apache's own check."""
    lines = [line for line in text.splitlines() if not line.lower().startswith("fastcgi")]
    main = site.server / "syntax.conf"
    loaded = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
    base = f"ServerRoot {site.server}\nErrorLog {site.server}/syntax.log\nServerName 127.0.0.1\nListen 127.0.0.1:{site.port}\n"
    main.write_text(base + loaded + "\n".join(lines))
    command = ["/usr/sbin/apache2", "-t", "-f", str(main)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
