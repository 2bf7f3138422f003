//! RF04: workers and the preloader.

super::codes! {
    NOT_STARTED = 401, "a worker cannot be started" {
        cause: "the system refused to start the process, for a reason other than a limit of the account",
        consequence: "requests wait, and the start is tried again",
        cure: "the message gives the system's reason; `check` shows whether a worker has what it needs",
    }
    NO_ROOM = 402, "the account has no room for one more process" {
        cause: "the host limits the processes, threads, open files or memory of the account, and the limit is reached",
        consequence: "requests wait for the existing workers; if there are none, they eventually get a 503",
        cure: "end other processes of the account, lower maxchildren below [server], or ask the host for a higher limit",
    }
    SLOW_START = 403, "a worker has not started in time" {
        cause: "the process that starts workers did not respond within [limits] start_timeout: it hangs, or is very slow",
        consequence: "that process is killed, and the application is imported again",
        cure: "check what runs in the parent at a fork (os.register_at_fork), or write preload = false below [server]",
    }
    IMPORT_KILLED = 404, "the import of the application was ended from outside" {
        cause: "a signal killed the process that imports the application: the host sent it, often because memory ran out",
        consequence: "the import is tried once more",
        cure: "if it happens again, see how much memory the account may use (`check`), and import less",
    }
    NO_PRELOADER = 405, "the preloader cannot be started" {
        cause: "the system refused to start the process that imports the application once for all workers",
        consequence: "each worker imports the application itself, or requests get an error page, as the message says",
        cure: "end other processes of the account, or write preload = false below [server]",
    }
    DIED = 406, "a worker ended unexpectedly" {
        cause: "the worker crashed, exited, or was killed, often because memory ran out",
        consequence: "another worker takes its place; the request that it was serving gets a 500",
        cure: "look for os._exit and compiled modules in the application, and check the account's memory with `check`",
    }
    SLOW_REQUEST = 407, "a request is slow" {
        cause: "the request has been running for [log] slow_log and has not finished",
        consequence: "its worker can serve no other request meanwhile; the stack that follows in the log shows what it is doing",
        cure: "look at the stack; if such requests are expected, raise [log] slow_log, or set it to 0",
    }
    BROKEN_WIRE = 408, "a process of the site sent invalid data" {
        cause: "something in the application wrote to a descriptor that belongs to runfcgi",
        consequence: "the worker or preloader is replaced; the request that it was serving gets a 500",
        cure: "make sure that the application does not close or write to descriptors that it did not open",
    }
    MUTE_PRELOADER = 409, "the preloader does not answer" {
        cause: "the process that has imported the application hangs, or was stopped by a signal",
        consequence: "it is killed, and the application is imported again",
        cure: "check which threads or signal handlers the import of the application leaves behind",
    }
}
