//! The settings file itself: where it is, whether it may be used, and what stands in it as text.
//!
//! Whoever may write the file may run code as us, so only a file is taken that nobody may write but those whom `Trust`
//! names. Knows no setting but `runtime_dir`.

use super::findings::Finding;
use super::value::{Base, Raw, field};
use super::{limits, table};
use crate::trust::{Distrust, Trust};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The user of the executable `exe`, who may own the settings file too. Of a link it is the user who has made it, unless
/// that is us or root.
pub fn owner(exe: &Path) -> Option<u32> {
    let own = nix::unistd::geteuid().as_raw();
    let of_link = std::fs::symlink_metadata(exe).ok().map(|meta| meta.uid());
    let of_link = of_link.filter(|uid| *uid != own && *uid != 0);
    of_link.or_else(|| Some(std::fs::metadata(exe).ok()?.uid()))
}

/// Where the settings file of an executable may lie, the nearest place first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// The paths, in the order in which they count.
    pub paths: Vec<PathBuf>,
    /// Those of them that are beside no executable, but above one.
    above: Vec<PathBuf>,
    /// Named by `--config` or `RUNFCGI_CONFIG`: it must be there.
    named: bool,
}

impl Candidates {
    /// Just the file that is named.
    pub fn named(path: PathBuf) -> Candidates {
        Candidates {
            paths: vec![path],
            above: Vec::new(),
            named: true,
        }
    }

    /// `<stem>.toml` beside the executable `<stem>.fcgi` or in the two directories above. If that is a link, then also
    /// beside and above what it leads to.
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

    /// The file that is used though another one, beside the executable, would come first: those two.
    pub fn farther<'a>(&'a self, used: Option<&'a Path>) -> Option<(&'a Path, &'a Path)> {
        let used = used.filter(|used| self.above.iter().any(|path| path == used))?;
        Some((used, self.name()))
    }

    /// The nearest that is there, if it may be used.
    pub fn find(&self, owner: Option<u32>) -> Result<Option<PathBuf>, Finding> {
        let there = |path: &&PathBuf| self.named || path.symlink_metadata().is_ok();
        match self.paths.iter().find(there) {
            Some(path) => acceptable(path, owner).map(|()| Some(path.clone())),
            None => Ok(None),
        }
    }

    /// The nearest place, whether or not anything is there: it does not change while files come and go.
    pub fn name(&self) -> &Path {
        self.paths.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// The nearest that is there, whether or not it may be used; else the nearest place of all.
    pub fn nearest(&self) -> PathBuf {
        let there = |path: &&PathBuf| path.symlink_metadata().is_ok();
        let found = self.paths.iter().find(there).or(self.paths.first());
        found.cloned().unwrap_or_default()
    }
}

/// The `runtime_dir` of a settings file that may be used, but is wrong: where the processes that still serve its last
/// good form are to be found.
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

/// What `RUNFCGI_CONFIG` names.
pub fn explicit_from_env() -> Option<PathBuf> {
    std::env::var_os("RUNFCGI_CONFIG")
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// What `~` stands for.
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
    judge(path, &meta, Trust::of(owner))
}

/// Whether whoever can change the file is one who may run code as us.
fn judge(path: &Path, meta: &std::fs::Metadata, trust: Trust) -> Result<(), Finding> {
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
    Finding::error("RF0101", path.display().to_string(), what, fix)
}

/// The text of a settings file that may be used.
pub(super) fn read(path: &Path, owner: Option<u32>) -> Result<String, Finding> {
    acceptable(path, owner)?;
    let error = |place: String, what: String, fix: &str| Finding::error("RF0101", place, what, fix);
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
    // Once more, of what is open now: the name may have come to mean another file.
    judge(
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
            "this is hardly a settings file",
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
        assert_eq!(find(), Ok(Some(near)), "beside what it leads to");
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
            let judged = judge(&path, &meta, Trust::of_both(us, owner));
            assert_eq!(judged.is_ok(), good, "{us}, {owner:?}: {judged:?}");
        }
        let (other, third) = (uid + 1, uid + 2);
        let told = |owner| {
            judge(&path, &meta, Trust::of_both(other, owner))
                .unwrap_err()
                .one_line()
        };
        let place = path.display();
        assert!(told(None).ends_with(&format!("chown {other} {place}")));
        let both = told(Some(third));
        let whose = format!("as user {other}, and the executable belongs to user {third}");
        assert!(both.contains(&whose), "{both}");
        assert!(
            both.ends_with(&format!("chown {third} {place}, or {other}")),
            "{both}"
        );
        dir.mode("mysite.toml", 0o664);
        let meta = path.metadata().unwrap();
        assert!(judge(&path, &meta, Trust::of_both(uid, Some(uid))).is_err());
    }

    #[test]
    fn of_a_broken_file_the_runtime_dir_still_counts_unless_others_may_write_it() {
        let dir = Scratch::new("file-broken");
        let of = |named: &str, mode| {
            let text = format!("[app\n[server]\n  runtime_dir = \"{named}\" # here\n");
            let path = dir.write("mysite.toml", text, mode);
            runtime_dir_at_home(&path, None, Some(PathBuf::from("/home/ann")))
        };
        assert_eq!(of("../run", 0o644), Some(dir.join("../run")));
        assert_eq!(of("/run/x", 0o600), Some(PathBuf::from("/run/x")));
        assert_eq!(of("~/run", 0o644), Some(PathBuf::from("/home/ann/run")));
        assert_eq!(of("/run/x", 0o666), None);
        assert_eq!(of("", 0o644), None);
        let large = " ".repeat(limits::CONFIG_SIZE as usize) + "\nruntime_dir = \"/x\"\n";
        let path = dir.write("mysite.toml", large, 0o644);
        assert_eq!(runtime_dir_of_broken(&path, None), None);
    }
}
