//! RF02: what the site runs on: Python, the application, the executable, `.htaccess`, the account and its sockets.

super::codes! {
    NO_PYTHON = 200, "no suitable Python was found" {
        cause: "the interpreter set in [app] python cannot be used, or the search found none that can",
        consequence: "the application cannot be imported, and visitors get an error page",
        cure: "set [app] python to the python of a virtual environment, or to one that the host provides",
    }
    IMPORT_FAILS = 201, "the application cannot be imported" {
        cause: "importing the application raised an exception or ended the process: the traceback shows where",
        consequence: "a new release does not go live and the old one keeps serving; without an old one visitors get an error page",
        cure: "fix what the last lines of the traceback name; `check` shows whether it worked",
    }
    IMPORT_TOO_LONG = 202, "the import of the application takes too long" {
        cause: "the import did not end within [limits] start_timeout: it is waiting for something, or the disk is slow",
        consequence: "the import is stopped and counts as failed",
        cure: "make sure that the import does not wait for the network or a lock; if it needs the time, raise [limits] start_timeout",
    }
    DEBUG_ON = 203, "Django's DEBUG is on" {
        cause: "DEBUG = True in the settings module of Django",
        consequence: "visitors see tracebacks and settings, and the memory of a worker grows with each query",
        cure: "set DEBUG = False and ALLOWED_HOSTS",
    }
    NO_ALLOWED_HOSTS = 204, "Django's ALLOWED_HOSTS is empty" {
        cause: "DEBUG is off, and ALLOWED_HOSTS in the settings module of Django names no host",
        consequence: "Django answers every request with 400",
        cure: "set ALLOWED_HOSTS = [\"www.example.org\"], with the host names of the site",
    }
    THREADS_AFTER_IMPORT = 205, "the import starts threads" {
        cause: "threads that are started while the application is imported do not survive a fork",
        consequence: "each worker imports the application itself, so it starts more slowly and uses more memory",
        cure: "start the threads on the first request, or write preload = false below [server]",
    }
    PYTHON_BY_HOME = 206, "Python was found through HOME" {
        cause: "the interpreter is in the home directory, and many web servers start programs without HOME",
        consequence: "the web server's process may find another Python, or none",
        cure: "set [app] python to the path that the message names",
    }
    OPEN_AFTER_IMPORT = 207, "the import leaves open what workers must not share" {
        cause: "a connection, pipe or file that was opened during the import would be used by all workers at once",
        consequence: "each worker imports the application itself, so it starts more slowly and uses more memory",
        cure: "open it on the first request, close it at the end of the import, or write preload = false below [server]",
    }
    UNTRUSTED_PYTHON = 208, "an interpreter is passed over" {
        cause: "another user could have put it there: it, or a directory above it, belongs to another user or is writable \
            by others",
        consequence: "the interpreter is not run, and the next suitable one is used",
        cure: "correct its owner and mode, or set [app] python to the interpreter that you want",
    }
    NO_SECRET_KEY = 209, "Django's SECRET_KEY is empty" {
        cause: "the settings module of Django sets no SECRET_KEY, or reads it from a variable that is not set",
        consequence: "sessions, logins and forms fail with 500",
        cure: "set SECRET_KEY; if it comes from a variable, give that below [env]",
    }
    UNSEEN_EXECUTABLE = 210, "the executable cannot be examined" {
        cause: "the executable or its directory does not exist, or this user may not see it",
        consequence: "it is not known whether the web server can start it",
        cure: "run check as the owner of the site, using the path that the web server uses",
    }
    WRITABLE_BY_OTHERS = 211, "the executable or its directory is writable by others" {
        cause: "its mode lets the group or all users write it",
        consequence: "hosts with suexec or something like it refuse to start it: visitors get a 500 from the web server",
        cure: "set its mode to 755, in the FTP client or with chmod 755",
    }
    OTHER_OWNER = 212, "the executable or its directory belongs to another user" {
        cause: "it was uploaded or copied by a user other than the one that check runs as",
        consequence: "suexec refuses to start it",
        cure: "upload it from the account that owns the site, or ask the host to change its owner",
    }
    NOT_EXECUTABLE = 213, "the executable may not be executed" {
        cause: "its mode has no execute permission, which FTP clients often leave out",
        consequence: "the web server cannot start it: visitors get an error from the web server, or the file as a download",
        cure: "set its mode to 755, in the FTP client or with chmod 755",
    }
    SETUID = 215, "the executable has a set-user-id or set-group-id bit" {
        cause: "its mode has one of the bits 4000 and 2000",
        consequence: "suexec refuses to start it",
        cure: "set its mode to 755",
    }
    OTHER_GROUP = 216, "the executable or its directory belongs to another group" {
        cause: "its group is not the group of the user that check runs as",
        consequence: "Apache's own suexec refuses to start it; some hosts have changed that",
        cure: "chgrp it to the account's group, unless the host itself set it up this way",
    }
    SPACE_IN_PATH = 217, "there is a space in the path of the executable" {
        cause: "a directory above the executable, or the executable itself, has a space in its name",
        consequence: "mod_fcgid cannot start the program: visitors get a 500 or 503 from the web server",
        cure: "rename the directory, or move the site to one without a space",
    }
    NO_HTACCESS = 220, "there is no .htaccess" {
        cause: "there is no .htaccess beside the executable",
        consequence: "Apache does not know which program answers; other web servers do not read such a file",
        cure: "upload one of the htaccess-templates",
    }
    UNREADABLE_HTACCESS = 221, ".htaccess cannot be read" {
        cause: "this user may not read it, or it is not a regular file",
        consequence: "check cannot tell what it says, and Apache itself may answer every request with 403",
        cure: "make it a regular file that the account owns, with mode 0644",
    }
    NO_HANDLER = 222, ".htaccess names no handler" {
        cause: "no AddHandler or SetHandler line names fcgid-script, fastcgi-script or cgi-script",
        consequence: "Apache may send the program as a file, or refuse to serve it",
        cure: "add AddHandler fcgid-script .fcgi (mod_fastcgi: fastcgi-script; only CGI: cgi-script)",
    }
    NO_REWRITE = 223, ".htaccess does not name the executable" {
        cause: "no rule of .htaccess passes requests to the executable",
        consequence: "only URLs that contain its name reach the site",
        cure: "copy the RewriteRule lines of one of the htaccess-templates",
    }
    PRIVATE_HTACCESS = 224, "the web server may not be able to read .htaccess" {
        cause: "its mode lets neither the group nor all users read it",
        consequence: "Apache answers every request with 403",
        cure: "set its mode to 644",
    }
    UNKNOWN_HANDLER = 225, ".htaccess names a handler that Apache does not have" {
        cause: "the name of the handler after AddHandler, SetHandler or H= is misspelt",
        consequence: "Apache sends the program as a file, or answers every request with 500",
        cure: "write the name that the message suggests, or let `init` write the lines",
    }
    BROKEN_HTACCESS = 226, "Apache does not understand .htaccess" {
        cause: "a section is not closed, or the name of a directive is misspelt",
        consequence: "Apache answers every request for this directory with 500",
        cure: "fix the line that the message names, or let `init` write the lines",
    }
    FEW_PROCESSES = 230, "the account has hardly any processes left" {
        cause: "the host limits the processes and threads of the account, and nearly all of them are in use",
        consequence: "workers cannot be started, and visitors wait or get a 503",
        cure: "end other processes of the account, or set maxchildren = 1 below [server]",
    }
    LITTLE_MEMORY = 231, "a process of this account may have little memory" {
        cause: "the host limits the address space of each process",
        consequence: "a larger application does not start, or fails when it needs more",
        cure: "ask the host for a higher limit, or import less",
    }
    MORE_THAN_ALLOWED = 232, "the settings ask for more processes than the account may have" {
        cause: "maxchildren, minspare or threads is set higher than the limits of the account allow",
        consequence: "fewer workers run than the settings say",
        cure: "set values that the account has room for, or omit them: the server then works them out",
    }
    FEW_DESCRIPTORS = 233, "the site may open only few files" {
        cause: "the host limits the open files of each process (RLIMIT_NOFILE, `ulimit -n`); connections and sockets count",
        consequence: "fewer connections are accepted at a time, and fewer bodies kept on disk; if the limit is too low to \
            serve anything, each request gets a 503",
        cure: "ask the host for a higher limit on open files; 1024 are usual",
    }
    NOT_LISTENING = 240, "cannot listen on an address" {
        cause: "another server listens there, the address does not belong to this machine, or the socket's directory is not \
            writable",
        consequence: "a server that is starting gives up; one that is restarting continues with its other addresses",
        cure: "stop the other server, or choose another address; ports below 1024 need root",
    }
    EXPOSED = 241, "other machines can reach the server" {
        cause: "it listens on a network address, and not only on 127.0.0.1 or a unix socket",
        consequence: "without FCGI_WEB_SERVER_ADDRS anyone who reaches the port can bypass the web server and send any request",
        cure: "use socket=PATH or host=127.0.0.1, or list the web server's address in FCGI_WEB_SERVER_ADDRS",
    }
    BAD_PIDFILE = 242, "the pidfile cannot be used" {
        cause: "the server is already running, or the file cannot be written, belongs to another user or is not a pidfile",
        consequence: "a server that is starting gives up; one that is restarting continues without it",
        cure: "stop the other server with kill, or set another pidfile",
    }
    BAD_SURROUNDINGS = 243, "the server cannot go into the background as configured" {
        cause: "workdir cannot be entered, or outlog or errlog cannot be opened",
        consequence: "a server that is starting gives up; one that is restarting continues as before",
        cure: "create the directory, or name another file that this user may write",
    }
    NO_BACKGROUND = 244, "the server did not reach the background" {
        cause: "a process of the daemon could not be started, or exited before it was ready",
        consequence: "the server does not run",
        cure: "start it with daemonize=false to see why",
    }
    NOT_SERVING = 245, "the server cannot start" {
        cause: "the system refused something that every server needs: a file descriptor, memory, or the executable itself",
        consequence: "the server does not run",
        cure: "the message gives the system's reason; `check` shows the limits of the account",
    }
    AS_ROOT = 246, "the application runs as root" {
        cause: "root started the server, and [server] user names nobody else",
        consequence: "the site is served; a visitor who finds a hole in the application has the whole machine",
        cure: "set [server] user to a user of the site's own; root, if it must be",
    }
    NOT_REHEARSED = 250, "the program could not be started as a web server starts it" {
        cause: "it could not be executed, did not read its socket, or exited at once",
        consequence: "the web server cannot start it either",
        cure: "follow the message; an executable that was uploaded in text mode is damaged",
    }
    REHEARSED_FAILURE = 251, "a request was answered with an error" {
        cause: "check acted as the web server, and the site failed as it would for a visitor",
        consequence: "visitors to such pages get an error",
        cure: "fix what the message names",
    }
    UNWRITABLE_LOG = 260, "a log cannot be written" {
        cause: "the user that the site runs as may not write the file, or its directory is not there",
        consequence: "the site is served, but events appear only in the web server's log, or nowhere",
        cure: "create the directory, or give the user permission to write there",
    }
    LITTLE_DISK = 261, "the disk is nearly full" {
        cause: "the file system of the temporary directory or of the runtime directory is full, or nearly",
        consequence: "larger uploads fail, and the site may not start",
        cure: "delete what is not needed, or point TMPDIR below [env] and runtime_dir below [server] elsewhere",
    }
    EXPOSED_FILE = 262, "a file that the server writes is below the document root" {
        cause: "a log, the pidfile or the runtime directory is set to a place from which the web server sends files",
        consequence: "visitors can read it, unless a rule in .htaccess or of the web server forbids it; logs tell of other visitors, and \
                      have tracebacks",
        cure: "set it to a place outside the document root, such as \"../mysite.log\"",
    }
    CHECK_ERRORS = 270, "Django's own checks find errors" {
        cause: "`manage.py check --deploy` finds errors in the models, URLs or settings of the site",
        consequence: "pages that use the faulty part fail",
        cure: "fix what the message names; Django's documentation lists each error by its id",
    }
    CHECK_WARNINGS = 271, "Django's own checks have warnings" {
        cause: "`manage.py check --deploy` recommends changes to the settings of the site",
        consequence: "the site works, but less safely than it could",
        cure: "look up the id of each in Django's documentation, and decide",
    }
    DATABASE = 272, "a database cannot be used" {
        cause: "connecting to it fails, or the user that the site runs as may not write its file or directory",
        consequence: "pages that use the database fail with 500",
        cure: "fix DATABASES in the settings module of Django, or give the user permission to write",
    }
    MIGRATIONS = 273, "migrations are not applied" {
        cause: "the tables of the database are older than the models of the site",
        consequence: "pages that use the missing tables or columns fail with 500",
        cure: "run manage.py migrate",
    }
    STATIC_FILES = 274, "static files are not collected" {
        cause: "STATIC_ROOT is not set, or collectstatic was not run since the files changed",
        consequence: "pages, including the admin, have no styles or scripts",
        cure: "set STATIC_ROOT to a directory that the web server serves, and run manage.py collectstatic",
    }
    UNASKED = 275, "a part of check failed" {
        cause: "querying Django raised an exception that check does not handle",
        consequence: "it is not known whether this part of the site works",
        cure: "follow the message; the same error may affect visitors",
    }
}
