//! The value of each setting that is not given. Numbers and their reasons stand in `limits.rs`; `table.rs` says the
//! same as text, and a test there holds the two together.

use super::*;

impl Default for Server {
    fn default() -> Server {
        Server {
            protocol: Protocol::Fcgi,
            host: None,
            port: None,
            socket: None,
            method: Method::Prefork,
            threads: limits::THREADS,
            maxrequests: 0,
            minspare: None,
            maxspare: None,
            maxchildren: None,
            daemonize: None,
            pidfile: None,
            workdir: None,
            debug: false,
            outlog: None,
            errlog: None,
            umask: None,
            socket_mode: None,
            backlog: limits::BACKLOG,
            secret: None,
            preload: true,
            warm: None,
            linger: limits::LINGER,
            idle_timeout: limits::IDLE_TIMEOUT,
            max_lifetime: 0,
            max_memory: 0,
            runtime_dir: None,
            remote_user: false,
            ping: None,
            endpoints: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: limits::MAX_CONNECTIONS,
            queue: limits::QUEUE,
            queue_timeout: limits::QUEUE_TIMEOUT,
            request_timeout: limits::REQUEST_TIMEOUT,
            start_timeout: limits::START_TIMEOUT,
            max_params: limits::MAX_PARAMS,
            max_body: limits::MAX_BODY,
            read_timeout: limits::READ_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
        }
    }
}

impl Default for Restart {
    fn default() -> Restart {
        Restart {
            how: How::Replace,
            watch: vec![PathBuf::from("tmp/restart.txt")],
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            file: None,
            max_size: limits::LOG_SIZE,
            access: None,
            format: String::from("%h %l %u %t \"%r\" %>s %b %D"),
            slow_log: limits::SLOW_LOG,
        }
    }
}
