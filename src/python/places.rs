//! Where interpreters may be: virtualenvs of the app, the account's own installations, and those of the system.
//!
//! Only lists files; runs none of them.

use crate::config::limits;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories of programs, whatever PATH the web server set.
pub(super) const PATH: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// The interpreters of virtualenvs that belong to the app, nearest first.
pub(super) fn venvs(dir: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for above in dir.ancestors().take(1 + limits::VENV_PARENTS) {
        if above != Path::new("/") {
            for name in ["venv", ".venv", "env", "virtualenv"] {
                push_bin(&mut out, &above.join(name));
            }
        }
        if Some(above) == home {
            break;
        }
    }
    if let Some(home) = home {
        // CloudLinux and cPanel: ~/virtualenv/<path of the app below home>/<X.Y>/bin/python
        let below = dir.strip_prefix(home).ok().map(Path::to_path_buf);
        let name = dir.file_name().map(PathBuf::from);
        for app in [below, name].into_iter().flatten() {
            if app.as_os_str().is_empty() {
                continue;
            }
            let mut versions = entries(&home.join("virtualenv").join(app));
            versions.sort_by_key(|p| std::cmp::Reverse(version_in_name(p)));
            for version in versions {
                push_bin(&mut out, &version);
            }
        }
    }
    out
}

/// The interpreters that the account or the system installed, one for each real file.
pub(super) fn installed(root: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Some(home) = home {
        let pyenv = entries(&home.join(".pyenv/versions"));
        dirs.extend(pyenv.into_iter().map(|v| v.join("bin")));
        dirs.push(home.join(".local/bin"));
    }
    let alt = entries(&root.join("opt/alt"));
    let alt = alt.into_iter().filter(|p| named_like(p, "python3"));
    dirs.extend(alt.map(|p| p.join("bin")));
    let cpanel = entries(&root.join("opt/cpanel"));
    let cpanel = cpanel
        .into_iter()
        .filter(|p| named_like(p, "ea-python3") || named_like(p, "ea-ruby-python3"));
    dirs.extend(cpanel.map(|p| p.join("root/usr/bin")));
    dirs.extend(PATH.iter().map(|p| root.join(p.trim_start_matches('/'))));

    let mut out: Vec<PathBuf> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for dir in dirs {
        let mut names = entries(&dir);
        names.retain(|p| is_python(p) && p.is_file());
        names.sort_by_key(|p| std::cmp::Reverse(version_in_name(p)));
        for path in names {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if !seen.contains(&real) {
                seen.push(real);
                out.push(path);
            }
        }
    }
    out
}

/// `python3`, `python3.11`; not `python3-config`.
fn is_python(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    match name.strip_prefix("python3") {
        Some("") => true,
        Some(rest) => {
            rest.len() > 1 && rest.starts_with('.') && rest[1..].bytes().all(|b| b.is_ascii_digit())
        }
        None => false,
    }
}

fn named_like(path: &Path, start: &str) -> bool {
    path.file_name()
        .and_then(|n| n.to_str())
        .is_some_and(|n| n.starts_with(start))
}

/// The numbers in a name: `python3.11` is newer than `python3.9`.
fn version_in_name(path: &Path) -> Vec<u32> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

fn push_bin(out: &mut Vec<PathBuf>, dir: &Path) {
    let python = ["bin/python3", "bin/python"].map(|name| dir.join(name));
    // Include a dangling link: the refusal then says that the virtualenv's interpreter is gone.
    if let Some(path) = python.into_iter().find(|p| p.symlink_metadata().is_ok())
        && !out.contains(&path)
    {
        out.push(path);
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut out: Vec<PathBuf> = list.flatten().map(|e| e.path()).collect();
    out.sort();
    out
}
