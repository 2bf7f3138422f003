//! The files of the runtime directory, which the app can write as well: as it reads them, so does `status`, as root
//! perhaps, and the owner's desk.

use runfcgi::bytes::fnv;
use runfcgi::config::Config;
use runfcgi::journal;
use runfcgi::owner::{Desk, SiteView};
use runfcgi::pairs::Pairs;
use runfcgi::reload::Origin;
use runfcgi::request::{Request, RequestNo};
use runfcgi::rundir::{self, Entry, RuntimeDir};
use runfcgi::status::Snapshot;
use runfcgi::status::collect::{Front, Site};
use runfcgi::status::command::Format;
use std::cell::OnceCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// The report of a front, without its first line, which holds a checksum.
pub(super) fn status(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert_eq!(
        Snapshot::decode(&text),
        None,
        "a report with a bad first line"
    );
    let Some(snapshot) = Snapshot::decode(&sealed(&text)) else {
        return;
    };
    assert_eq!(
        Snapshot::decode(&snapshot.encode()).as_ref(),
        Some(&snapshot)
    );
    let front = Front {
        usage: None,
        workers: vec![None; snapshot.workers.len()],
        silent: None,
        snapshot,
    };
    let site = Site {
        now: 1_700_000_000_000,
        config: String::from("/nowhere/site.toml"),
        fronts: vec![front; 3],
        ..Site::default()
    };
    show(&site);
}

/// With the first line that a status file begins with.
fn sealed(body: &str) -> String {
    let (length, sum) = (body.len(), fnv(body.as_bytes()));
    format!("# runfcgi-status 2 {length} {sum:016x}\n{body}")
}

/// What is shown of a site in a terminal has no control characters, and what is shown in a browser no foreign elements.
fn show(site: &Site) {
    for format in [Format::Text, Format::Html, Format::Json, Format::Prometheus] {
        let shown = format.render(site);
        let stray = shown
            .chars()
            .find(|c| c.is_control() && !"\n\t\x1b".contains(*c));
        assert_eq!(stray, None, "{format:?}");
        let foreign = format == Format::Html && shown.contains("<fuzz");
        assert!(!foreign, "{shown}");
    }
}

thread_local! {
    /// Where the files of this thread's targets are.
    static DIR: OnceCell<Place> = const { OnceCell::new() };
}

/// A runtime directory, removed with the thread.
struct Place {
    path: PathBuf,
    dir: RuntimeDir,
}

impl Place {
    fn new() -> Place {
        let thread = format!("{:?}", std::thread::current().id());
        let name = format!(
            "runfcgi-fuzz-{}-{}",
            std::process::id(),
            fnv(thread.as_bytes())
        );
        let path = std::env::temp_dir().join(name);
        let dir = RuntimeDir::open(Some(&path), &path, b"").expect("a runtime directory");
        Place { path, dir }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The last task, and what it has found: what the desk shows of the one depends on the other.
pub(crate) const TASK: &str =
    "word = \"check\"\nbegan = 1600000000000\nended = 1600000001000\ntrouble = \"\"\n";
pub(crate) const FOUND: &str = "{\"level\": \"error\", \"code\": \"RF0101\", \"place\": \"<fuzz>\", \
     \"what\": \"<fuzz>\\n<fuzz>\", \"fix\": \"write <fuzz>\"}\n\
     {\"level\": \"ok\", \"code\": \"\", \"place\": \"<fuzz>\", \"what\": \"<fuzz>\", \"fix\": \"\"}\n\
     {\"verdict\": \"<fuzz>\"}\n";

/// The first byte says which file holds the rest.
pub(super) fn rundir(bytes: &[u8]) {
    let Some((which, content)) = bytes.split_first() else {
        return;
    };
    if let Ok(name) = std::str::from_utf8(content) {
        rundir::version_of(name);
        rundir::pid_of(name);
        rundir::owner_and_site(name);
        rundir::holder(name);
    }
    DIR.with(|place| {
        let place = place.get_or_init(Place::new);
        let entry = file(*which);
        let path = place.dir.file(entry);
        let content = match entry {
            Entry::Status(_) => sealed(&String::from_utf8_lossy(content)).into_bytes(),
            _ => content.to_vec(),
        };
        for (usual, text) in [
            (Entry::Task, TASK),
            (Entry::TaskOutput, FOUND),
            (Entry::CheckOutput, FOUND),
        ] {
            fs::write(place.dir.file(usual), text).expect("written");
        }
        fs::write(&path, content).expect("written");
        let held = File::open(&path).expect("there");
        // As the process would that has written it.
        if matches!(entry, Entry::Status(_) | Entry::Lock(_)) {
            held.lock().expect("locked");
        }
        read(&place.dir);
        drop(held);
        fs::remove_file(path).expect("there");
    });
}

fn file(which: u8) -> Entry<'static> {
    let files = [
        Entry::Journal,
        Entry::Lock("1f"),
        Entry::Status(std::process::id()),
        Entry::Good,
        Entry::Task,
        Entry::TaskOutput,
        Entry::CheckOutput,
        Entry::Tries,
    ];
    files[usize::from(which) % files.len()]
}

/// Reads what a status report and the owner's desk read.
fn read(dir: &RuntimeDir) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let settings = "/nowhere/site.toml";
    show(&Site::collect(&[dir.path().to_owned()], settings, now));
    let entries = journal::read(dir.path());
    let count: usize = journal::groups(&entries).len();
    assert!(count <= entries.len());
    for entry in &entries {
        assert!(journal::find(&entries, &entry.incident).is_some() || entry.incident.is_empty());
        let lines = [
            &entry.kind,
            &entry.request,
            &entry.summary,
            &entry.place,
            &entry.hint,
        ];
        assert!(lines.iter().all(|text| !text.contains(char::is_control)));
    }
    let origin = Origin {
        executable: PathBuf::from("/nowhere/site.fcgi"),
        ..Origin::default()
    };
    if let Some(good) = origin.good(dir) {
        assert!(!good.version.contains('\n'));
    }
    desk(dir, &origin, now);
}

const SECRET: &str = "a secret of the owner, long enough";

/// Opens the owner's desk, and looks at each of its pages.
fn desk(dir: &RuntimeDir, origin: &Origin, now: SystemTime) {
    let mut config = Config::default();
    config.owner.path = Some(String::from("/desk"));
    config.owner.secret = Some(String::from(SECRET));
    config.owner.tasks = true;
    config.app.path = Some(PathBuf::from("/nowhere"));
    config.file = Some(PathBuf::from("/nowhere/site.toml"));
    let mut desk = Desk::default();
    desk.set_config(Rc::new(config));
    let site = SiteView {
        dir: Some(dir),
        origin,
        cgi: false,
        name: "/nowhere/site.toml",
        refused_settings: None,
        refused_code: None,
        reloading: false,
        unavailable: None,
    };
    let ask = |method: &str, path: &str, cookie: &str, body: &[u8]| {
        let mut environ = Pairs::new();
        for (name, value) in [
            ("REQUEST_METHOD", method),
            ("SCRIPT_NAME", ""),
            ("PATH_INFO", path),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("HTTP_COOKIE", cookie),
        ] {
            environ.push(name.as_bytes(), value.as_bytes());
        }
        let request = Request {
            number: RequestNo(1),
            source: 0,
            environ: Rc::new(environ),
            body: runfcgi::body::Body::Memory(body.to_vec()),
        };
        desk.reply(&request, &site, now)
    };
    let form = format!("secret={}", SECRET.replace(' ', "+"));
    let opened = ask("POST", "/desk", "", form.as_bytes()).expect("the desk");
    let Some(cookie) = opened.head.get(b"Set-Cookie") else {
        // Too many wrong secrets, as the file says.
        return;
    };
    let cookie = String::from_utf8_lossy(cookie);
    let cookie = cookie.split(';').next().unwrap_or_default();
    for page in ["/desk", "/desk/failures", "/desk/tasks"] {
        let reply = ask("GET", page, cookie, b"").expect("a page");
        let text = String::from_utf8_lossy(&reply.body);
        assert!(!text.contains("<fuzz"), "{page}: {text}");
        assert!(text.len() < 8 << 20, "{page}: {} bytes", text.len());
    }
}
