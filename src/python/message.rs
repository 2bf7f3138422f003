//! The encoding of a `Launch`: its length in eight hexadecimal digits, then pairs. Pure bytes.
//!
//! A front sends it to the child that executes the interpreter. What follows on the same stream is for the interpreter.

use super::Launch;
use crate::config::limits;
use crate::pairs::Pairs;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Digits of the length.
const DIGITS: usize = 8;

/// The bytes of a message.
pub(crate) fn encode(launch: &Launch) -> Vec<u8> {
    let mut pairs = Pairs::new();
    let mut put = |name: &str, value: Option<&OsStr>| {
        if let Some(value) = value {
            pairs.push(name.as_bytes(), value.as_bytes());
        }
    };
    let fail_frame = launch.fail_frame.map(|letter| [letter]);
    let owner = launch.owner.map(|owner| owner.to_string());
    put("app_path", launch.app_path.as_deref().map(Path::as_os_str));
    put("settings", launch.settings.as_deref().map(OsStr::new));
    put("wsgi", launch.wsgi.as_deref().map(OsStr::new));
    put("python", launch.python.as_deref().map(Path::as_os_str));
    put("owner", owner.as_deref().map(OsStr::new));
    put("cache", launch.cache.as_deref().map(Path::as_os_str));
    put(
        "fail_frame",
        fail_frame.as_ref().map(|letter| OsStr::from_bytes(letter)),
    );
    for argument in &launch.args {
        put("argument", Some(argument));
    }
    let mut message = format!("{:08x}", pairs.as_bytes().len()).into_bytes();
    message.extend(pairs.as_bytes());
    message
}

/// Reads one message of at most `LAUNCH_SIZE` bytes from a stream, and not a byte more.
pub(super) fn read(from: &mut impl Read) -> io::Result<Launch> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let mut digits = [0; DIGITS];
    from.read_exact(&mut digits)?;
    let digits = std::str::from_utf8(&digits).map_err(|_| wrong())?;
    let length = usize::from_str_radix(digits, 16).map_err(|_| wrong())?;
    if length > limits::LAUNCH_SIZE {
        return Err(wrong());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    let pairs = Pairs::from_bytes(bytes).ok_or_else(wrong)?;
    let mut launch = Launch::default();
    for (name, value) in pairs.iter() {
        let words = || OsString::from_vec(value.to_vec());
        let text = || String::from_utf8_lossy(value).into_owned();
        match name {
            b"app_path" => launch.app_path = Some(PathBuf::from(words())),
            b"settings" => launch.settings = Some(text()),
            b"wsgi" => launch.wsgi = Some(text()),
            b"python" => launch.python = Some(PathBuf::from(words())),
            b"owner" => launch.owner = Some(text().parse().map_err(|_| wrong())?),
            b"cache" => launch.cache = Some(PathBuf::from(words())),
            b"fail_frame" => launch.fail_frame = value.first().copied(),
            b"argument" => launch.args.push(words()),
            _ => return Err(wrong()),
        }
    }
    Ok(launch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_and_nothing_after_it_is_read() {
        let launch = Launch {
            app_path: Some("/a".into()),
            settings: Some("s".into()),
            wsgi: None,
            python: Some("p".into()),
            owner: Some(1000),
            cache: Some("/c".into()),
            fail_frame: Some(b'B'),
            args: vec!["-c".into(), "code\nof two lines".into()],
        };
        let mut bytes = encode(&launch);
        bytes.extend(b"the bridge");
        let mut stream = bytes.as_slice();
        assert_eq!(read(&mut stream).unwrap(), launch);
        assert_eq!(stream, b"the bridge");
        for end in 0..bytes.len() - b"the bridge".len() {
            assert!(read(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
        for wrong in [
            "00000003a\0b",
            "00000006bogus\0",
            "00000008owner\0x\0",
            "0000000gpython\0p\0",
            "ffffffff",
        ] {
            assert!(read(&mut wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
