//! The value of each setting that is not given.

use super::*;

impl Default for Method {
    fn default() -> Method {
        Method::Prefork
    }
}

impl Default for Server {
    fn default() -> Server {
        Server {
            protocol: Protocol::Fcgi,
            host: None,
            port: None,
            socket: None,
            method: Method::Prefork,
            threads: 4,
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
            backlog: 128,
            secret: None,
            preload: true,
            warm: None,
            linger: 1800,
            idle_timeout: 60,
            max_lifetime: 0,
            max_memory: 0,
            runtime_dir: None,
            remote_user: false,
            ping: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 1024,
            queue: 100,
            queue_timeout: 30,
            request_timeout: 240,
            start_timeout: 30,
            max_params: 256 << 10,
            max_body: 1 << 30,
            read_timeout: 60,
            write_timeout: 60,
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
            max_size: 10 << 20,
            access: None,
            format: String::from("%h %l %u %t \"%r\" %>s %b %D"),
            slow_log: 10.0,
        }
    }
}
