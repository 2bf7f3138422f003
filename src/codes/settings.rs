//! RF01: the settings file and the command line.

super::codes! {
    NO_FILE = 100, "there is no settings file" {
        cause: "no file named after the executable (mysite.toml for mysite.fcgi) is beside it or in the two directories \
            above",
        consequence: "there is no site to serve: visitors get an error page, and commands exit with status 2",
        cure: "upload the settings file to one of these directories, or name another with --config FILE or RUNFCGI_CONFIG",
    }
    UNUSABLE_FILE = 101, "the settings file cannot be used" {
        cause: "the file is missing, unreadable, too large or not a regular file, or users other than its owner and root \
            may write it or one of its directories: anyone who can change it can run code as the owner of the site",
        consequence: "the file is not used; a running site keeps its current settings",
        cure: "make it a regular file that the account owns, with mode 0644, or 0600 if it contains a secret",
    }
    SYNTAX = 102, "the settings file is not valid TOML" {
        cause: "the line that the message names has a syntax error: a quote or bracket is missing, or a string has no quotes",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "write one `key = value` per line, below its section in [brackets], with strings in double quotes",
    }
    UNKNOWN_KEY = 103, "a section or key is unknown" {
        cause: "a name in the settings file is misspelt, or a key is in the wrong section",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "correct the name, or move the key below its section: `help reference` lists all of them",
    }
    BAD_VALUE = 104, "a value in the settings file is wrong" {
        cause: "the value has the wrong type, is out of range, or is not one of the choices",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "write a value of the kind that the message names: `help KEY` shows what each key takes",
    }
    BAD_OPTION = 105, "an option of the command line is wrong" {
        cause: "an argument after `runfcgi` is not a known option, has no value, or has a value that the option does not take",
        consequence: "the server does not start",
        cure: "correct the option: `help runfcgi` lists all of them",
    }
    NO_APP = 110, "no application is named" {
        cause: "the settings have neither [app] settings nor [app] wsgi",
        consequence: "there is nothing to serve; a running site keeps its current settings",
        cure: "below [app] write settings = \"mysite.settings\" for Django, or wsgi = \"module:callable\"",
    }
    NO_APP_DIRECTORY = 111, "the directory of the application cannot be used" {
        cause: "[app] path names a directory that does not exist or that this user may not enter, or it names a file",
        consequence: "the application cannot be imported; a running site keeps its current settings",
        cure: "set [app] path to the directory that contains the application's package",
    }
    BAD_VARIABLE = 112, "an environment variable cannot be set" {
        cause: "a name below [env] has characters other than letters, digits and _, or begins with a digit, or its value contains a NUL byte",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "correct the name or the value below [env]",
    }
    SETTINGS_TWICE = 113, "DJANGO_SETTINGS_MODULE is set twice" {
        cause: "[env] DJANGO_SETTINGS_MODULE and [app] settings name different modules",
        consequence: "[app] settings is used",
        cure: "remove the variable from [env]",
    }
    CHILDREN_ORDER = 114, "the limits on workers contradict each other" {
        cause: "minspare is above maxspare, or one of them is above maxchildren",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "choose minspare <= maxspare <= maxchildren, or omit them",
    }
    OPEN_AJP = 115, "AJP would listen on the network without a secret" {
        cause: "an AJP peer can claim to be any user, and other machines can reach this address",
        consequence: "the server does not start",
        cure: "set the same secret below [server] and in the web server, or listen on 127.0.0.1 or a unix socket",
    }
    HALF_ADDRESS = 116, "the listening address is incomplete or contradictory" {
        cause: "host is given without port, port without host, or socket together with them; or host is not an IP address",
        consequence: "the settings are not used; a running site keeps its current settings",
        cure: "give either socket, or host and port",
    }
    NOWHERE_TO_LISTEN = 117, "there is nowhere to listen" {
        cause: "the program was started as a server, but neither a web server nor systemd passed it a socket, and no address is given",
        consequence: "the server does not start",
        cure: "add socket=PATH, or host=ADDRESS and port=NUMBER; under mod_fcgid, start nothing by hand",
    }
    UNFIT_SYSTEMD_SOCKET = 118, "a systemd service with a socket is set up incorrectly" {
        cause: "systemd passes a socket that does not listen (Accept=yes, or a datagram), or daemonize is set for a \
            service that systemd keeps in the foreground",
        consequence: "the server does not start",
        cure: "use ListenStream= and Accept=no in the socket unit, and omit daemonize",
    }
    BAD_WEB_SERVER_ADDRS = 119, "FCGI_WEB_SERVER_ADDRS is wrong" {
        cause: "the variable lists the addresses of web servers that may connect, and one of them is not an IP address",
        consequence: "a server started by hand does not start; one that a web server started accepts no TCP connections",
        cure: "write IP addresses separated by commas, or unset the variable",
    }
    HALF_STATUS_PAGE = 120, "the status page is only half set up" {
        cause: "[status] has a path without a secret, a secret without a path, or a secret shorter than 12 characters",
        consequence: "there is no status page, or its secret can be guessed; the site itself is served",
        cure: "below [status] write path = \"/-/status\" and secret = a long random text",
    }
    HALF_DESK = 121, "the owner's desk is only half set up" {
        cause: "[owner] has a path without a secret, a secret without a path, or a secret shorter than 12 characters",
        consequence: "there is no desk, or its secret can be guessed, and anyone who has it can act as the owner; the site itself is served",
        cure: "below [owner] write path = \"/-/runfcgi\" and secret = a long random text",
    }
    NOT_THE_USER = 122, "the server cannot become the user that the settings name" {
        cause: "[server] user names somebody who is not in /etc/passwd, or the server was not started by root, or that user \
            may not execute the program",
        consequence: "the server does not start",
        cure: "name a user of this machine and start the server as root, or start it as that user",
    }
    DEBUG_OFF = 130, "debug=false turns debug off" {
        cause: "flup's runfcgi treated any value of debug, even false, as true",
        consequence: "visitors see no tracebacks, as debug=false says",
        cure: "nothing, unless tracebacks are wanted: then write debug=true",
    }
    RELATIVE_TO_WORKDIR = 131, "a relative path is resolved against the current directory" {
        cause: "workdir and a relative path are both given; flup's runfcgi resolved such a path against workdir",
        consequence: "a socket, pidfile or log may be in a different directory than with flup",
        cure: "write absolute paths",
    }
    SECRET_ON_COMMAND_LINE = 132, "the secret is on the command line" {
        cause: "all users of the machine can see the command lines of each other's processes",
        consequence: "the secret is not secret",
        cure: "put the secret into the settings file, below [server], with mode 0600",
    }
    BAD_WORDS = 150, "the command line is not understood" {
        cause: "an argument is not a command, or the command does not take it",
        consequence: "nothing is done, and the exit status is 2",
        cure: "`help` lists the commands, and `help runfcgi` the options",
    }
    FOREIGN_LAUNCH = 151, "another program tried to start the interpreter" {
        cause: "the program was started under the name that it reserves for starting Python, but it did not start itself",
        consequence: "no interpreter is started",
        cure: "start the program under its own name; if nobody did this by hand, tell the host",
    }
    WORDS_FROM_SUEXEC = 152, "command-line arguments from a web server are ignored" {
        cause: "the environment is as empty as suexec leaves it, so the arguments may come from the web server and not from \
            the owner of the site",
        consequence: "the arguments are ignored: a command exits with status 2, and a visitor gets an error page",
        cure: "put the options into the settings file; if suexec is not in use, set HOME for the command",
    }
    WORDS_FROM_ANOTHER_USER = 153, "command-line arguments from another user's process are ignored" {
        cause: "the process that started this one belongs to a different user than this one runs as",
        consequence: "the arguments are ignored: a command exits with status 2, and a visitor gets an error page",
        cure: "run the command as the owner of the site or as root, or put the options into the settings file",
    }
    NO_CGI_VARIABLES = 154, "FCGI_FORCE_CGI without a request" {
        cause: "FCGI_FORCE_CGI selects CGI, for one request, but the environment has no REQUEST_METHOD",
        consequence: "nothing is served, and the exit status is 2",
        cure: "unset FCGI_FORCE_CGI, or set the variables of a CGI request",
    }
    READABLE_SECRET = 160, "others may read the secret" {
        cause: "the settings file contains a secret, and its mode lets the group or all users read it",
        consequence: "other accounts on the machine can read the secret",
        cure: "set the mode of the settings file to 0600",
    }
    NEEDS_HOME = 161, "a setting needs HOME" {
        cause: "a path begins with ~, and many web servers start programs without HOME",
        consequence: "check finds the path from a shell, but the web server's process does not",
        cure: "write the absolute path",
    }
    PARENTS_SETTINGS = 162, "the settings belong to another site" {
        cause: "there is no settings file beside the executable, and the one found above it has its own executable beside it",
        consequence: "both run the same application",
        cure: "put a settings file beside the executable, with the same name and the extension .toml",
    }
}
