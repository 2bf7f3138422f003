//! The echo: answers the requests of `check --url` with a list of what arrived. All other requests go to the app, as if
//! there were no echo.

use super::Role;
use crate::echo::{KEY, Key, LIFETIME, VARIABLE};
use crate::owner::{Reply, SiteView, redact};
use crate::pairs::Pairs;
use crate::request::Request;
use crate::response::ResponseHead;
use crate::rundir::{self, Entry, RuntimeDir};
use std::fs::File;
use std::io::Read;
use std::rc::Rc;

/// The key and the number of a request for the echo.
pub(super) fn requested(request: &Request, dir: Option<&RuntimeDir>) -> Option<(Key, u64)> {
    let value = request.environ.get(VARIABLE)?;
    let key = read_key(dir?)?;
    let number = key.asked(value)?;
    Some((key, number))
}

/// The key that `check` has written, if it has not expired.
fn read_key(dir: &RuntimeDir) -> Option<Key> {
    let mut file = File::open(dir.file(Entry::Echo)).ok()?;
    let age = file.metadata().ok()?.modified().ok()?.elapsed().ok()?;
    let mut key = [0; KEY];
    file.read_exact(&mut key).ok()?;
    (age.as_secs() <= LIFETIME).then_some(Key(key))
}

/// The list of what arrived, for the key and number that asked for it.
pub(super) fn reply(
    request: &Request,
    site: &SiteView<'_>,
    role: Role,
    (key, number): &(Key, u64),
) -> Reply {
    let body = key.tell(*number, &facts(request, site, role));
    let mut fields = Pairs::new();
    for (name, value) in [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", &body.len().to_string()),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        fields.push(name.as_bytes(), value.as_bytes());
    }
    Reply {
        head: ResponseHead {
            status: 200,
            reason: b"OK".to_vec(),
            fields,
        },
        body: body.into_bytes(),
        redacted: Rc::new(redact(&request.environ, &key.ask(*number))),
        note: None,
        file: None,
        restart: false,
    }
}

/// One fact a line: name and value. Contains no value of a header.
fn facts(request: &Request, site: &SiteView<'_>, role: Role) -> String {
    let get = |name: &str| {
        let value = request.environ.get(name.as_bytes()).unwrap_or_default();
        String::from_utf8_lossy(value).replace(char::is_control, "?")
    };
    let yes = |is: bool| String::from(if is { "yes" } else { "no" });
    let role = match role {
        Role::Spawned { mod_fcgid: true } => "mod_fcgid",
        Role::Spawned { .. } => "FastCGI",
        Role::External => "a server of your own",
        Role::Cgi => "CGI",
    };
    [
        ("site", rundir::site(site.name.as_bytes())),
        ("role", String::from(role)),
        ("pid", std::process::id().to_string()),
        ("software", get("SERVER_SOFTWARE")),
        ("https", yes(get("HTTPS") == "on")),
        ("forwarded", yes(get("HTTP_X_FORWARDED_PROTO") == "https")),
        ("script_name", get("SCRIPT_NAME")),
        ("path_info", get("PATH_INFO")),
        ("query", get("QUERY_STRING")),
        ("authorization", yes(!get("HTTP_AUTHORIZATION").is_empty())),
        ("body", request.body.length().to_string()),
    ]
    .iter()
    .map(|(name, value)| format!("{name} {value}\n"))
    .collect()
}
