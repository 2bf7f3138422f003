//! Tasks requested by a file, for an owner without a browser. The owner uploads `tmp/run.txt` below the app's path. Its
//! first line is the word of a task; the lines after it are the username, email and password, which only
//! `createsuperuser` needs. The output goes to `tmp/run.log`.

use super::SiteView;
use super::job::Job;
use super::task::{self, Task};
use crate::codes::desk;
use crate::config::Config;
use crate::log::Level;
use crate::status::collect::millis;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Path of the request, relative to the app's path.
const REQUEST_FILE: &str = "tmp/run.txt";
/// Path of the output, relative to the app's path.
const OUTPUT_FILE: &str = "tmp/run.log";
/// How old the request's mtime must be, so that an upload that is still running is not read.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// A longer request file is ignored.
const MAX_REQUEST_BYTES: u64 = 4 << 10;

/// Starts the task that the request file names, if there is such a file and no task is running. Returns a line for the
/// log, and whether to restart the site.
pub(super) fn poll(
    site: &SiteView<'_>,
    config: &Config,
    now: SystemTime,
) -> Option<((Level, String), bool)> {
    let app = config.app.path.as_deref()?;
    let dir = site.dir?;
    let running = || task::last(dir, millis(now)).is_some_and(|last| last.running);
    if !is_ready(&app.join(REQUEST_FILE), now) || running() {
        return None;
    }
    let text = claim(app)?;
    let mut lines = text.trim().lines().map(str::trim);
    let word = lines.next().unwrap_or_default();
    if word == "restart" {
        write_output(app, "restart: asked for");
        let text = format!("desk: restart requested in {REQUEST_FILE}");
        return Some(((Level::Info, text), true));
    }
    let started = match Task::named(word) {
        None => Err(format!("{word:?} is no task; there are {}", Task::words())),
        Some(_) => Job::new(word, site, config)
            .ok_or_else(|| String::from("there is no runtime directory"))
            .and_then(|mut job| {
                job.output_copy = Some(app.join(OUTPUT_FILE));
                let names = ["username", "email", "password"].map(String::from);
                job.fields = names.into_iter().zip(lines.map(String::from)).collect();
                job.start(now)
            }),
    };
    let note = match started {
        Ok(()) => (
            Level::Info,
            format!("desk: {word} requested in {REQUEST_FILE}"),
        ),
        Err(why) => {
            write_output(app, &why);
            (
                Level::Warning(desk::BAD_RUN_FILE),
                format!("desk: {REQUEST_FILE}: {why}"),
            )
        }
    };
    Some((note, false))
}

/// Whether this is a regular file of acceptable size whose upload has finished.
fn is_ready(request: &Path, now: SystemTime) -> bool {
    let Ok(meta) = fs::symlink_metadata(request) else {
        return false;
    };
    let age = meta.modified().map(|at| now.duration_since(at));
    let settled = age.is_ok_and(|age| age.is_ok_and(|age| age >= SETTLE_TIME));
    meta.is_file() && (1..=MAX_REQUEST_BYTES).contains(&meta.len()) && settled
}

/// Removes the request file, which may hold a password, and returns its text. All fronts see the file, but only one of
/// them succeeds in renaming it; the others get None.
fn claim(app: &Path) -> Option<String> {
    let claimed = app.join(format!("{REQUEST_FILE}.{}", std::process::id()));
    fs::rename(app.join(REQUEST_FILE), &claimed).ok()?;
    let mut text = String::new();
    let read = File::open(&claimed)
        .and_then(|file| file.take(MAX_REQUEST_BYTES).read_to_string(&mut text));
    let _ = fs::remove_file(&claimed);
    read.ok().map(|_| text)
}

/// Replaces the output file with this line.
fn write_output(app: &Path, text: &str) {
    // Never write through a symlink.
    let path = app.join(OUTPUT_FILE);
    let _ = fs::remove_file(&path);
    let file = File::create_new(path);
    let _ = file.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
}
