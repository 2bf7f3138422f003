//! Finds the settings file, checks that it may be used, and reads its text.
//!
//! Anyone who can write the file can run code as us, so a file is refused unless only users that `Trust` accepts can
//! write it. The only setting known here is `runtime_dir`.

use super::findings::Finding;
use super::value::{Base, Raw, field};
use super::{limits, table};
use crate::codes;
use crate::trust::{Distrust, Trust};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user id of the owner of the executable `exe`, who may own the settings file too. For a symbolic link this is the
/// owner of the link, unless that is us or root; then it is the owner of the target.
pub fn owner(exe: &Path) -> Option<u32> {
    let own = nix::unistd::geteuid().as_raw();
    let of_link = std::fs::symlink_metadata(exe).ok().map(|meta| meta.uid());
    let of_link = of_link.filter(|uid| *uid != own && *uid != 0);
    of_link.or_else(|| Some(std::fs::metadata(exe).ok()?.uid()))
}

/// The paths at which the settings file of an executable is looked for, nearest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The paths, in order of precedence.
    pub paths: Vec<PathBuf>,
    /// The paths that are in a directory above an executable, not beside one.
    above: Vec<PathBuf>,
    /// Named by `--config` or `RUNFCGI_CONFIG`: the file must exist.
    named: bool,
}

impl Candidates {
    /// Only the file at `path`, which must exist.
    pub fn named(path: PathBuf) -> Candidates {
        Candidates {
            paths: vec![path],
            above: Vec::new(),
            named: true,
        }
    }

    /// `<stem>.toml` beside the executable `<stem>.fcgi` and in the two directories above. If the executable is a
    /// symbolic link, the same places around its target follow.
    pub fn of(executable: &Path) -> Candidates {
        let target = executable
            .is_symlink()
            .then(|| std::fs::canonicalize(executable).ok())
            .flatten();
        let mut found = Candidates::default();
        for executable in [executable].into_iter().chain(target.as_deref()) {
            let name = executable.with_extension("toml");
            let name = name.file_name().unwrap_or_default();
            let dirs = executable.ancestors().skip(1);
            for (steps, dir) in dirs.take(1 + limits::CONFIG_PARENTS).enumerate() {
                let path = dir.join(name);
                if found.paths.contains(&path) {
                    continue;
                }
                if steps > 0 {
                    found.above.push(path.clone());
                }
                found.paths.push(path);
            }
        }
        found
    }

    /// If `used` is in a directory above the executable: `used`, and the path beside the executable that would take
    /// precedence.
    pub fn farther<'a>(&'a self, used: Option<&'a Path>) -> Option<(&'a Path, &'a Path)> {
        let used = used.filter(|used| self.above.iter().any(|path| path == used))?;
        Some((used, self.name()))
    }

    /// The nearest path that exists. An error if that file may not be used.
    pub fn find(&self, owner: Option<u32>) -> Result<Option<PathBuf>, Finding> {
        let exists = |path: &&PathBuf| self.named || path.symlink_metadata().is_ok();
        match self.paths.iter().find(exists) {
            Some(path) => acceptable(path, owner).map(|()| Some(path.clone())),
            None => Ok(None),
        }
    }

    /// The first path, whether or not it exists: it stays the same when files come and go.
    pub fn name(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The nearest path that exists, even if the file may not be used; otherwise the first path.
    pub fn nearest(&self) -> PathBuf {
        let exists = |path: &&PathBuf| path.symlink_metadata().is_ok();
        let found = self.paths.iter().find(exists).or(self.paths.first());
        found.cloned().unwrap_or_default()
    }
}

/// The `runtime_dir` of a settings file that may be used but has errors. The processes that still serve its last valid
/// version are found there.
pub fn runtime_dir_of_broken(path: &Path, owner: Option<u32>) -> Option<PathBuf> {
    runtime_dir_at_home(path, owner, home())
}

fn runtime_dir_at_home(path: &Path, owner: Option<u32>, home: Option<PathBuf>) -> Option<PathBuf> {
    let text = read(path, owner).ok()?;
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("runtime_dir"))?;
    let table: toml::Table = toml::from_str(line).ok()?;
    let named = Raw::text(table.get("runtime_dir")?.clone());
    let dir = path.parent()?.to_path_buf();
    let opt = table::find("server", "runtime_dir")?;
    field(opt, named, &Base { dir, home }).ok()
}

/// The path in `RUNFCGI_CONFIG`, unless it is unset or empty.
pub fn explicit_from_env() -> Option<PathBuf> {
    std::env::var_os("RUNFCGI_CONFIG")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// The directory that `~` stands for: `HOME`, unless it is unset or empty.
pub(super) fn home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from)
}

fn acceptable(path: &Path, owner: Option<u32>) -> Result<(), Finding> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => {
            return Err(refusal(
                path,
                format!("the settings file cannot be read: {e}"),
                "create it, or name another with --config FILE or RUNFCGI_CONFIG",
            ));
        }
    };
    check_trust(path, &meta, Trust::of(owner))
}

/// Refuses a file that users whom `trust` does not accept can change.
fn check_trust(path: &Path, meta: &std::fs::Metadata, trust: Trust) -> Result<(), Finding> {
    if !meta.is_file() {
        return Err(refusal(
            path,
            "this is not a regular file",
            "put a settings file there",
        ));
    }
    trust
        .owner(path, meta.uid())
        .map_err(|Distrust { what, fix }| {
            refusal(path, format!("the settings file {what}"), fix)
        })?;
    if meta.mode() & 0o022 != 0 {
        return Err(refusal(
            path,
            format!(
                "others may write the settings file (mode {:04o}), and so could run code as us",
                meta.mode() & 0o7777
            ),
            format!("chmod go-w {}", path.display()),
        ));
    }
    Ok(())
}

fn refusal(path: &Path, what: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding::error(
        codes::settings::UNUSABLE_FILE,
        path.display().to_string(),
        what,
        fix,
    )
}

/// Reads a settings file that may be used: UTF-8, with or without a byte order mark, and at most
/// `limits::CONFIG_SIZE` bytes.
pub(super) fn read(path: &Path, owner: Option<u32>) -> Result<String, Finding> {
    acceptable(path, owner)?;
    let error = |place: String, what: String, fix: &str| {
        Finding::error(codes::settings::UNUSABLE_FILE, place, what, fix)
    };
    let place = path.display().to_string();
    let unreadable = |e: std::io::Error| {
        error(
            place.clone(),
            format!("the settings file cannot be read: {e}"),
            &format!("chmod u+r {place}"),
        )
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // Check again, on the open file: the path may have been replaced since.
    check_trust(
        path,
        &file.metadata().map_err(unreadable)?,
        Trust::of(owner),
    )?;
    file.take(limits::CONFIG_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > limits::CONFIG_SIZE {
        return Err(error(
            place,
            format!("the file is larger than {} bytes", limits::CONFIG_SIZE),
            "this does not look like a settings file",
        ));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(error(
            place,
            "the file is saved as UTF-16".to_string(),
            "save it as UTF-8 (\"Encoding\" in the editor)",
        ));
    }
    let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match std::str::from_utf8(body) {
        Ok(text) => Ok(text.to_string()),
        Err(e) => {
            let line = body[..e.valid_up_to()].split(|b| *b == b'\n').count();
            Err(error(
                format!("{place}:{line}"),
                "this line is not UTF-8".to_string(),
                "save the file as UTF-8 (\"Encoding\" in the editor)",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::{chown, symlink};

    #[test]
    fn the_file_is_found_beside_or_above() {
        let dir = Scratch::new("file-locate");
        let exe_dir = dir.join("a/b");
        std::fs::create_dir_all(&exe_dir).unwrap();
        let exe = exe_dir.join("mysite.fcgi");
        let find = || Candidates::of(&exe).find(None);
        assert_eq!(find(), Ok(None));
        let far = dir.write("mysite.toml", "", 0o644);
        assert_eq!(find(), Ok(Some(far.clone())));
        let candidates = Candidates::of(&exe);
        let beside = exe_dir.join("mysite.toml");
        assert_eq!(candidates.farther(Some(&far)), Some((&*far, &*beside)));
        let near = dir.write("a/b/mysite.toml", "", 0o644);
        assert_eq!(find(), Ok(Some(near.clone())));
        assert_eq!(candidates.farther(Some(&near)), None);
        std::fs::create_dir(dir.join("c")).unwrap();
        dir.write("a/b/mysite.fcgi", "", 0o755);
        let link = dir.join("c/mysite.fcgi");
        symlink(&exe, &link).unwrap();
        let find = || Candidates::of(&link).find(None);
        assert_eq!(find(), Ok(Some(far)), "above the link");
        std::fs::remove_file(dir.join("mysite.toml")).unwrap();
        assert_eq!(find(), Ok(Some(near)), "beside its target");
        let linked = dir.write("c/mysite.toml", "", 0o644);
        assert_eq!(find(), Ok(Some(linked)));
        let gone = dir.join("gone.toml");
        assert!(Candidates::named(gone).find(None).is_err());
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let dir = Scratch::new("file-writable");
        let path = dir.write("mysite.toml", "", 0o644);
        dir.mode("mysite.toml", 0o664);
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        symlink(&path, dir.join("a/mysite.toml")).unwrap();
        for exe_dir in [dir.to_path_buf(), dir.join("a")] {
            let finding = Candidates::of(&exe_dir.join("mysite.fcgi"))
                .find(None)
                .unwrap_err();
            assert_eq!(finding.level, Level::Error);
            assert!(finding.fix.starts_with("chmod go-w /"), "{finding}");
        }
        std::fs::create_dir(dir.join("a/b/mysite.toml")).unwrap();
        let finding = Candidates::of(&dir.join("a/b/mysite.fcgi"))
            .find(None)
            .unwrap_err();
        assert!(finding.what.contains("regular"), "{finding}");
    }

    #[test]
    fn the_file_may_belong_to_us_to_root_and_to_the_owner_of_the_executable() {
        let dir = Scratch::new("file-owner");
        let path = dir.write("mysite.toml", "", 0o644);
        if nix::unistd::geteuid().is_root() {
            chown(&path, Some(4321), None).unwrap();
        }
        let meta = path.metadata().unwrap();
        let uid = meta.uid();
        for (us, owner, good) in [
            (uid, None, true),
            (uid, Some(uid + 1), true),
            (uid + 1, Some(uid), true),
            (uid + 1, None, false),
            (uid + 1, Some(uid + 1), false),
            (uid + 1, Some(uid + 2), false),
            (0, Some(0), false),
        ] {
            let checked = check_trust(&path, &meta, Trust::of_both(us, owner));
            assert_eq!(checked.is_ok(), good, "{us}, {owner:?}: {checked:?}");
        }
        let (other, third) = (uid + 1, uid + 2);
        let refused = |owner| {
            check_trust(&path, &meta, Trust::of_both(other, owner))
                .unwrap_err()
                .one_line()
        };
        let place = path.display();
        assert!(refused(None).ends_with(&format!("chown {other} {place}")));
        let both = refused(Some(third));
        let whose = format!("as user {other}, and the executable belongs to user {third}");
        assert!(both.contains(&whose), "{both}");
        assert!(
            both.ends_with(&format!("chown {third} {place}, or {other}")),
            "{both}"
        );
        dir.mode("mysite.toml", 0o664);
        let meta = path.metadata().unwrap();
        assert!(check_trust(&path, &meta, Trust::of_both(uid, Some(uid))).is_err());
    }

    #[test]
    fn the_runtime_dir_of_a_broken_file_is_used_unless_others_may_write_it() {
        let dir = Scratch::new("file-broken");
        let of = |named: &str, mode| {
            let text = format!("[app\n[server]\n  runtime_dir = \"{named}\" # here\n");
            let path = dir.write("mysite.toml", text, mode);
            runtime_dir_at_home(&path, None, Some(PathBuf::from("/home/ann")))
        };
        assert_eq!(of("../run", 0o644), Some(dir.with_file_name("run")));
        assert_eq!(of("/run/x", 0o600), Some(PathBuf::from("/run/x")));
        assert_eq!(of("~/run", 0o644), Some(PathBuf::from("/home/ann/run")));
        assert_eq!(of("/run/x", 0o666), None);
        assert_eq!(of("", 0o644), None);
        let large = " ".repeat(limits::CONFIG_SIZE as usize) + "\nruntime_dir = \"/x\"\n";
        let path = dir.write("mysite.toml", large, 0o644);
        assert_eq!(runtime_dir_of_broken(&path, None), None);
    }
}
