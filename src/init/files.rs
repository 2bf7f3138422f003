//! Writes the owner's files atomically, and backs up what they replace.

use nix::unistd::{Gid, Uid, chown, geteuid};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most backups of one file.
const MAX_BACKUPS: u32 = 1000;

/// Creates or replaces a file atomically; a failed attempt leaves nothing behind. The file keeps the mode of the one
/// that it replaces, else gets 0644. If we run as root, it gets the owner and group of its directory.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Replace the target of a symlink, not the symlink.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&path).map_or(0o644, |meta| meta.permissions().mode() & 0o777);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = create(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, &path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Copies a file to `.bak`, or if that exists to `.bak.2` and so on, in the same directory. Returns the path of the
/// copy.
pub(super) fn back_up(path: &Path) -> io::Result<PathBuf> {
    let bytes = fs::read(path)?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    for number in 1..=MAX_BACKUPS {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(match number {
            1 => String::from(".bak"),
            _ => format!(".bak.{number}"),
        });
        let copy = path.with_file_name(name);
        match create(&copy, &bytes, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| copy),
        }
    }
    Err(io::Error::other("there are too many backups beside it"))
}

/// Creates a file, which must not exist yet, and syncs it to disk.
fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file: File = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    // Set the mode here, so that the umask does not matter.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    if geteuid().is_root() {
        let directory = fs::metadata(path.parent().unwrap_or(Path::new("/")))?;
        let (user, group) = (directory.uid(), directory.gid());
        chown(path, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn each_change_leaves_a_copy() {
        let dir = Scratch::new("init-files");
        let path = dir.join(".htaccess");
        write(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        dir.mode(".htaccess", 0o640);
        for (copy, text) in [(".htaccess.bak", "two"), (".htaccess.bak.2", "three")] {
            assert_eq!(back_up(&path).unwrap(), dir.join(copy));
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        }
        let read = [".htaccess.bak", ".htaccess.bak.2", ".htaccess"].map(|name| dir.read(name));
        assert_eq!(read, ["one", "two", "three"]);
        assert_eq!(fs::read_dir(&*dir).unwrap().count(), 3);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = Scratch::new("init-link");
        let kept = dir.write("kept", "one", 0o644);
        std::os::unix::fs::symlink(&kept, dir.join(".htaccess")).unwrap();
        write(&dir.join(".htaccess"), b"two").unwrap();
        assert!(dir.join(".htaccess").is_symlink());
        assert_eq!(dir.read("kept"), "two");
    }
}
