//! RF03: connections from web servers, requests and responses.

super::codes! {
    BAD_REQUEST = 301, "a malformed or oversized request was refused" {
        cause: "the web server sent a request that violates its protocol or exceeds [limits] max_params",
        consequence: "this request gets an error page",
        cure: "raise [limits] max_params if the message names it; otherwise check the web server's protocol and its limit on \
            headers",
    }
    TOO_MANY_REQUESTS = 302, "too many requests at once" {
        cause: "the number of requests in progress has reached [limits] max_connections",
        consequence: "further requests get a 503 until others finish",
        cure: "raise [limits] max_connections, or find out who sends so many",
    }
    CHUNKED_UPLOAD = 303, "a chunked upload does not reach the program" {
        cause: "the client sent a body without Content-Length, and this web server does not forward such a body",
        consequence: "this request gets a 411",
        cure: "make the client send Content-Length, or make the web server buffer the whole body",
    }
    SHORT_BODY = 304, "the body of a request is shorter than its Content-Length" {
        cause: "the visitor's connection broke during the upload, or the client sent a wrong Content-Length",
        consequence: "this request gets a 400, and the application does not see it",
        cure: "nothing, unless it happens often: then check the web server's own limits and log",
    }
    LONG_BODY = 305, "the body of a request is too large" {
        cause: "the body is larger than [limits] max_body, or than [limits] spool",
        consequence: "this request gets a 413, and the application does not see it",
        cure: "raise the limit that the message names if such uploads are wanted",
    }
    BODY_OVER_LIMIT = 306, "the account may not store so large a body" {
        cause: "the host limits the size of the files of this account (RLIMIT_FSIZE)",
        consequence: "this request gets a 413, and the application does not see it",
        cure: "ask the host for a higher limit, or have large files uploaded in pieces",
    }
    BODY_NOT_STORED = 307, "the body of a request cannot be stored" {
        cause: "a large body is stored in a temporary file, which cannot be written: the disk or the quota may be full",
        consequence: "uploads get an error page; requests without a large body are served",
        cure: "free space on the disk or in the quota",
    }
    STALLED_BODY = 308, "the body of a request has stalled" {
        cause: "the client sent no more of the body for [limits] read_timeout, or for longer than that less than [limits] min_rate",
        consequence: "this request gets a 408, and the application does not see it",
        cure: "nothing, unless uploads over slow connections matter: then raise [limits] read_timeout, or lower [limits] min_rate",
    }
    UNAVAILABLE = 309, "there is no application to serve a request" {
        cause: "the settings cannot be used or the application cannot be imported: the message says why",
        consequence: "every request gets an error page until that is fixed",
        cure: "fix what the message names; the next request tries again, and no restart is needed",
    }
    QUEUE_FULL = 310, "too many requests wait for a worker" {
        cause: "all workers are busy, and the number of waiting requests has reached [limits] queue",
        consequence: "further requests get a 503 until the queue has room",
        cure: "see which requests are slow ([log] slow_log), or raise [server] maxchildren",
    }
    QUEUE_TIMEOUT = 311, "no worker became free in time" {
        cause: "all workers were busy for [limits] queue_timeout, or none could be started",
        consequence: "this request gets a 503, and the application does not see it",
        cure: "see which requests are slow ([log] slow_log), or raise [server] maxchildren",
    }
    REQUEST_TIMEOUT = 312, "a request ran too long" {
        cause: "the application worked on the request for longer than [limits] request_timeout",
        consequence: "the visitor gets a 504 and the worker is killed; the log has the stack of the request",
        cure: "look at the stack in the log; if the request may take so long, raise [limits] request_timeout",
    }
    NO_WORKER = 313, "no worker could be started for a request" {
        cause: "the workers that were to serve it exited while starting",
        consequence: "this request gets a 503",
        cure: "the lines before this one in the log say why the workers ended",
    }
    WORKER_LOST = 314, "a worker ended during a request" {
        cause: "the worker crashed, exited, or was killed, often because memory ran out",
        consequence: "this request gets a 500, or a truncated response; another worker takes its place",
        cure: "unless the log says why above it, look for os._exit and compiled modules in what the request \
               does, and at the account's memory in `check`",
    }
    EXCEPTION = 315, "the application raised an exception" {
        cause: "the application raised an exception before its response began: the traceback shows where",
        consequence: "this request gets a 500",
        cure: "fix what the last lines of the traceback name",
    }
    NO_RESPONSE = 316, "the application returned no response" {
        cause: "the application returned without calling start_response",
        consequence: "this request gets a 500",
        cure: "see that it calls start_response on every path; an ASGI callable cannot be served",
    }
    BAD_RESPONSE = 317, "the response of the application cannot be sent" {
        cause: "its status or one of its header fields violates HTTP or WSGI",
        consequence: "this request gets a 500",
        cure: "correct the status or the header field that the message names",
    }
    FILE_ENDED = 318, "a file became shorter while it was being sent" {
        cause: "the file that is the body of a response was truncated or became unreadable",
        consequence: "the visitor's download breaks off",
        cure: "replace files by renaming a new one over the old, instead of writing into them",
    }
    NO_MORE_WORKERS = 319, "no worker became free in time, and none could be added" {
        cause: "the application was still being imported, all workers that maxchildren or the memory of the account allow were \
                busy, or the system refused one more process: the message says which",
        consequence: "this request gets a 503, and the application does not see it",
        cure: "make the import or the pages faster, raise maxchildren, end other processes of the account, or ask the host for \
               a higher limit, as the message suggests",
    }
    CAUGHT = 320, "the application handled an exception itself" {
        cause: "an exception was raised in the application, and its framework caught it: the traceback shows where",
        consequence: "this request gets the framework's own error page, usually a 500",
        cure: "fix what the message names: the place is the innermost line of your own code",
    }
    UNEXPLAINED = 321, "the application answered with a 500 and reported no exception" {
        cause: "the application produced this response itself, or its framework does not report the exceptions that it catches",
        consequence: "this request gets the application's 500",
        cure: "look for what the application itself has logged for this request",
    }
    DISALLOWED_HOST = 322, "the host name is not in ALLOWED_HOSTS" {
        cause: "a visitor asked for a host name that the Django settings do not list, or somebody is trying out names",
        consequence: "Django answers this request with a 400",
        cure: "if the name is yours, add it to ALLOWED_HOSTS, then touch mysite.fcgi",
    }
    SPOOL_FULL = 323, "there is no room on disk for what waits there" {
        cause: "large bodies of requests, and responses that are read slowly, have used up [limits] spool, or their files enough \
                of the descriptors, or the disk has no more room than [limits] spool_free: the message says which",
        consequence: "this upload gets a 503; a slow reader keeps its worker waiting, and loses his response after 5 seconds \
            without reading if other requests wait for that worker",
        cure: "free disk space, or raise [limits] spool; if it happens often, find out who sends or reads so slowly",
    }
    BAD_PROTOCOL = 330, "a connection does not speak the expected protocol" {
        cause: "the bytes on the connection do not follow the protocol that is configured for it",
        consequence: "the connection is closed; the web server answers those requests with an error of its own",
        cure: "set [server] protocol to what the web server speaks: fcgi, scgi or ajp",
    }
    STALLED_CONNECTION = 331, "a connection has stalled" {
        cause: "the web server sent no request, or no more of one, for [limits] read_timeout, or read no more of a response for [limits] \
            write_timeout, or did so for longer than that at less than [limits] min_rate",
        consequence: "the connection is closed",
        cure: "nothing, unless it happens often: then look at the web server's log for the same time",
    }
    REFUSED_CLIENT = 332, "a connection from an address or user that is not allowed was refused" {
        cause: "FCGI_WEB_SERVER_ADDRS does not list the address, or [server] allowed_users the user, or the user is not known: he \
                is on another machine, or has left",
        consequence: "the connection is closed",
        cure: "if it is the web server, add its address or user to the one that the message names",
    }
    NO_DESCRIPTORS = 333, "no more connections can be accepted for now" {
        cause: "the process or the machine has run out of file descriptors or memory",
        consequence: "new connections wait in the kernel until some are free",
        cure: "lower [limits] max_connections, or ask the host for a higher limit on open files",
    }
    LARGE_HEAD = 334, "the header of a response may be too large for web servers" {
        cause: "the application sends more or larger header fields than web servers usually accept, often cookies",
        consequence: "the web server may answer with a 500 or 502 of its own",
        cure: "set fewer and smaller cookies, or raise the limit in the web server",
    }
    TOO_MUCH_MEMORY = 335, "requests that are still coming in take too much memory" {
        cause: "the variables and small bodies of all requests that are not complete exceed [limits] memory",
        consequence: "the connection that holds most of them is closed; the web server answers its requests with an error of its own",
        cure: "find out who sends so many requests and does not complete them, or raise [limits] memory",
    }
    NO_ROOM = 336, "as many connections are open as there may be" {
        cause: "the number of open connections has reached [limits] max_connections, or what the limit of open files has room \
                for",
        consequence: "the oldest connection on which no request has come is closed for each new one; if there is none, new ones wait \
                      in the kernel",
        cure: "find out who opens so many; any user of the machine can open them on a TCP port, unless [server] allowed_users \
               is set, or on a socket that he may write; or raise [limits] max_connections",
    }
}
