//! `Scratch`: a directory of one unit test, removed with it. Exists for the tests only; knows nothing of what they test.

use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An empty directory of mode 0755, by its real path.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// `name` tells it from those of the other tests.
    pub(crate) fn new(name: &str) -> Scratch {
        let name = format!("runfcgi-unit-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        let dir = Scratch(path.canonicalize().unwrap());
        dir.mode("", 0o755);
        dir
    }

    /// Writes a file of this mode, and the directories above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        self.mode(name, mode);
        path
    }

    /// What a file holds; nothing when it is not there.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.join(name)).unwrap_or_default()
    }

    /// Gives a file, or with "" the directory itself, this mode.
    pub(crate) fn mode(&self, name: &str, mode: u32) {
        let path = match name {
            "" => self.to_path_buf(),
            name => self.join(name),
        };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
