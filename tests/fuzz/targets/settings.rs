//! The settings file and the command line: whatever is in them is read, or refused with all that is wrong.

use runfcgi::cli::{self, Command};
use runfcgi::config::{Config, Finding, Options};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// The text of a settings file.
pub(super) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let read = || Config::from_text(Path::new("/nowhere/site.toml"), &text, &Options::default());
    match read() {
        Ok(config) => {
            assert_eq!(config.text, text);
            bounds(&config);
        }
        Err(findings) => refused(&findings),
    }
}

fn bounds(config: &Config) {
    let (server, limits) = (&config.server, &config.limits);
    assert!(config.app.settings.is_some() || config.app.wsgi.is_some());
    assert!(
        config
            .app
            .path
            .as_ref()
            .is_some_and(|path| path.is_absolute())
    );
    assert!((1..=64).contains(&server.threads));
    assert!(server.port != Some(0) && server.maxchildren != Some(0));
    assert!(limits.max_connections > 0 && limits.max_params > 0);
}

/// Each finding says something.
fn refused(findings: &[Finding]) {
    assert!(!findings.is_empty());
    for finding in findings {
        assert!(!finding.one_line().is_empty());
    }
}

/// Arguments, one a line.
pub(super) fn options(bytes: &[u8]) {
    let args = || -> Vec<OsString> {
        let lines = bytes.split(|byte| *byte == b'\n');
        lines
            .map(|line| OsString::from_vec(line.to_vec()))
            .collect()
    };
    for stem in ["mysite", "runfcgi"] {
        match cli::parse(stem, args(), false) {
            Ok(Command::Serve(serve)) => match Config::load_with(None, &serve.options) {
                Ok(config) => bounds(&config),
                Err(findings) => refused(&findings),
            },
            Ok(Command::Help(topic)) => assert!(!cli::help_text(topic, stem).is_empty()),
            Ok(_) => {}
            Err(findings) => {
                refused(&findings);
                assert!(!cli::refusal(&findings).is_empty());
            }
        }
    }
    // Under CGI they are the visitor's.
    let serve = cli::parse("mysite", args(), true);
    assert!(matches!(serve, Ok(Command::Serve(serve)) if !serve.asked));
}
