//! The invariants of the source: which layer may name which, and how files are kept.
//!
//! They are stated as absences, and each message says which file and line breaks one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file that count: its code up to the unit tests.
struct Source {
    path: PathBuf,
    name: String,
    code: String,
    whole: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    collect(&root.join("src"), &["rs"], &mut found);
    assert!(found.len() > 40, "only {} files below src", found.len());
    let source = |path: PathBuf| {
        let whole = fs::read_to_string(&path).expect("readable");
        let code = whole
            .split("\n#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .to_owned();
        let name = path
            .strip_prefix(root.join("src"))
            .expect("below src")
            .display()
            .to_string();
        Source {
            path,
            name,
            code,
            whole,
        }
    };
    found.into_iter().map(source).collect()
}

/// Files with one of these extensions; nothing that is hidden.
fn collect(dir: &Path, extensions: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable") {
        let entry = entry.expect("readable");
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            collect(&path, extensions, found);
        } else if extensions
            .iter()
            .any(|e| path.extension().is_some_and(|its| its == *e))
        {
            found.push(path);
        }
    }
}

/// The parts of the Python side.
fn bridge() -> Vec<(PathBuf, String)> {
    let bridge = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/workers/bridge");
    let parts = fs::read_dir(bridge).expect("readable");
    let paths = parts.map(|part| part.expect("readable").path());
    let parts: Vec<_> = paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read_to_string(path).expect("readable")))
        .collect();
    assert!(!parts.is_empty(), "no part of the bridge was found");
    parts
}

/// Fails with every line of the files that `which` picks in which one of `words` stands outside a comment.
#[track_caller]
fn forbid(which: impl Fn(&str) -> bool, words: &[&str], why: &str) {
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for source in sources()
        .iter()
        .filter(|s| which(&s.name) && !s.name.ends_with("tests.rs"))
    {
        looked_at += 1;
        for (number, line) in source.code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                broken.push(format!("{}:{}: {word}", source.path.display(), number + 1));
            }
        }
    }
    assert!(looked_at > 0, "no file is meant by this rule: {why}");
    assert!(broken.is_empty(), "{why}\n{}", broken.join("\n"));
}

const IO: [&str; 9] = [
    "std::io",
    "std::net",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "nix::",
    "libc::",
];

#[test]
fn codecs_and_plain_data_know_no_io_clock_or_system() {
    let pure = |name: &str| {
        name.starts_with("proto")
            || ["pairs.rs", "response.rs", "workers/wire.rs", "pages.rs"].contains(&name)
    };
    forbid(pure, &IO, "a protocol is a pure function of bytes");
    forbid(
        |name| name.starts_with("environ"),
        &IO,
        "what the app sees is a pure function of what was sent",
    );
}

#[test]
fn layers_point_down() {
    forbid(
        |name| name.starts_with("proto"),
        &[
            "crate::workers",
            "crate::server",
            "crate::config",
            "crate::log",
            "crate::start",
        ],
        "a codec knows only pairs and responses",
    );
    forbid(
        |name| name.starts_with("workers"),
        &[
            "crate::proto",
            "crate::traffic",
            "crate::reload",
            "crate::server",
            "crate::start",
            "crate::cli",
            "Instant::now",
        ],
        "the Python side knows no web server, no owner and no clock",
    );
    forbid(
        |name| name.starts_with("reload"),
        &[
            "crate::proto",
            "crate::traffic",
            "crate::server",
            "crate::start",
            "crate::workers",
            "Instant::now",
        ],
        "how a change goes live depends on no socket, no process and no clock",
    );
    forbid(
        |name| name.starts_with("traffic"),
        &[
            "crate::workers",
            "crate::reload",
            "crate::server",
            "crate::start",
            "crate::poller",
            "use nix",
            "std::net",
            "os::fd",
            "Instant::now",
            "SystemTime",
        ],
        "what web servers do is told by others: traffic knows no socket, no worker and no clock",
    );
    forbid(
        |name| name.starts_with("config"),
        &[
            "crate::server",
            "crate::workers",
            "crate::proto",
            "crate::start",
        ],
        "settings are plain data",
    );
    forbid(
        |name| !name.starts_with("traffic") && !name.starts_with("proto"),
        &["crate::proto"],
        "codecs are traffic's alone",
    );
    forbid(
        |name| name.starts_with("server"),
        &["crate::start", "crate::cli", "crate::check"],
        "the server does not know who started it",
    );
}

#[test]
fn the_methods_of_a_type_stand_in_one_file() {
    let mut files: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let room = source.name.split(['/', '.']).next().unwrap_or_default();
        for line in source
            .code
            .lines()
            .filter(|l| l.starts_with("impl") && !l.contains(" for "))
        {
            let named = line.trim_start_matches("impl");
            let named = match named.starts_with('<') {
                true => named.split_once("> ").map_or(named, |(_, named)| named),
                false => named,
            };
            let name = named.trim().split(['<', ' ']).next().unwrap_or_default();
            let of = files.entry((room.to_owned(), name.to_owned()));
            of.or_default().insert(source.name.clone());
        }
    }
    assert!(files.len() > 40, "only {} types were found", files.len());
    // What goes on all the time, and what changes the process itself.
    let exception = ["server/mod.rs", "server/rollover.rs"].map(String::from);
    files.retain(|_, files| files.len() > 1 && *files != BTreeSet::from(exception.clone()));
    assert!(files.is_empty(), "types that were cut: {files:#?}");
}

#[test]
fn only_the_command_line_prints_or_exits() {
    forbid(
        |name| !["main.rs", "start.rs", "start/tell.rs", "daemon.rs"].contains(&name),
        &["println!", "print!(", "process::exit", "io::stdout()"],
        "printing and exiting belong to the command line",
    );
}

#[test]
fn unsafe_stands_in_one_module() {
    forbid(
        |name| name != "sys/ffi.rs",
        &["unsafe "],
        "unsafe belongs to sys/ffi.rs",
    );
}

#[test]
fn one_room_reads_proc_and_adopts_descriptors() {
    forbid(
        |name| !name.starts_with("sys/"),
        &["\"/proc", "\"/sys/", "from_raw_fd"],
        "what the kernel tells in files, and descriptors that are mere numbers, belong to sys/",
    );
    forbid(
        |name| name.starts_with("sys/"),
        &["crate::"],
        "sys stands at the bottom",
    );
    forbid(
        |name| !["sys/fd.rs", "systemd.rs", "start.rs", "start/handover.rs"].contains(&name),
        &["fd::adopt", "fd::close_the_rest"],
        "what was open when the program began is for those that begin it",
    );
}

#[test]
fn one_room_names_the_files_of_the_runtime_directory() {
    let why = "the names of its files belong to rundir/";
    // Rust has each path of a `rundir::Entry`: what must not stand elsewhere is a name made by hand.
    let outside = |name: &str| !name.starts_with("rundir/");
    let words = [
        "\".lock",
        "}.lock",
        "\".sock",
        "}.sock",
        "}.log\"",
        "}.out\"",
        "\"front-",
        "\".status\"",
        "\"exe-",
        "\"reload\"",
        "\"want\"",
        "\"failed\\n",
        "\"runfcgi-\"",
        "\"runfcgi-{",
    ];
    forbid(outside, &words, why);
    // A class of HTML, and what one image hands over to the next, are called like this, too.
    let outside = |name: &str| {
        outside(name)
            && ![
                "status/html.rs",
                "owner/overview.rs",
                "owner/tasks_page.rs",
                "start/handover.rs",
            ]
            .contains(&name)
    };
    forbid(outside, &["\"good\"", "\"turn\"", "\"ready\""], why);
    // Python is told its paths, and may say `open` and `python` when it tells of an import.
    let words = [
        ".lock'",
        ".sock'",
        "'exe-",
        "'front-",
        "'good'",
        "'open')",
        "'python')",
        "'reload'",
        "'turn'",
        "'want'",
        "} ready'",
    ];
    for (shown, whole) in bridge() {
        let word = words.iter().find(|word| whole.contains(**word));
        assert_eq!(word, None, "{}: {why}", shown.display());
    }
}

#[test]
fn one_place_asks_for_the_time_and_one_sleeps() {
    let in_server = |name: &str| name.starts_with("server");
    let count = |word: &str| -> usize {
        sources()
            .iter()
            .filter(|s| in_server(&s.name))
            .map(|s| s.code.matches(word).count())
            .sum()
    };
    assert_eq!(
        count("Instant::now()"),
        1,
        "time is an argument: only `clock` asks for it"
    );
    assert_eq!(count("poller.wait("), 1, "only `wait` sleeps");
    forbid(
        |name| name != "poller.rs",
        &["Epoll::new", "EpollEvent"],
        "epoll belongs to the poller",
    );
    forbid(
        in_server,
        &["thread::sleep"],
        "the loop never sleeps elsewhere",
    );
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(
            lines <= 500,
            "{} has {lines} lines before its tests: a type may be missing",
            source.path.display()
        );
        assert!(
            source.whole.starts_with("//!"),
            "{} does not say what it is for",
            source.path.display()
        );
    }
    let mut modules = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    collect(&src, &["py"], &mut modules);
    assert!(modules.len() > 10, "only {} are in Python", modules.len());
    for module in modules {
        let whole = fs::read_to_string(&module).expect("readable");
        let shown = module.display();
        assert!(whole.lines().count() <= 500, "{shown} is too long");
        assert!(
            whole.starts_with("\"\"\"") || whole.starts_with("# "),
            "{shown} does not say what it is for"
        );
    }
}

#[test]
fn tests_have_rooms() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files = Vec::new();
    collect(&tests, &["rs", "py"], &mut files);
    assert!(files.len() > 50, "only {} files below tests", files.len());
    let mut broken = Vec::new();
    for file in files {
        let shown = file.display().to_string();
        let text = fs::read_to_string(&file).expect("readable");
        let lines = text.lines().count();
        if lines > 600 {
            broken.push(format!("{shown} has {lines} lines"));
        }
        for (number, line) in text.lines().map(str::trim_start).enumerate() {
            let imports = line.starts_with("from ") || line.starts_with("import ");
            let mut names = line.split([' ', '.', ',']);
            if imports && names.any(|name| name.starts_with("test_")) {
                broken.push(format!("{shown}:{}: {line}", number + 1));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "a test file has one subject, and what files share lies in a module of its own\n{}",
        broken.join("\n")
    );
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        "todo!",
        "unimplemented!",
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("#[ig", "nore"),
        "dbg!(",
    ];
    for source in sources() {
        for word in words {
            assert!(
                !source.whole.contains(word),
                "{} contains {word}",
                source.path.display()
            );
        }
    }
}

#[test]
fn every_template_and_recipe_is_named_in_the_readme() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("readable");
    for entry in fs::read_dir(root.join("htaccess-templates")).expect("readable") {
        let name = entry
            .expect("readable")
            .file_name()
            .to_string_lossy()
            .into_owned();
        assert!(
            readme.contains(&name),
            "README.md does not name htaccess-templates/{name}"
        );
    }
}
