//! SCRIPT_NAME and PATH_INFO: the path at which the application is mounted, and the rest of the visitor's path.
//!
//! RFC 3875 sections 4.1.5 and 4.1.13 define the two, but web servers rewrite them, merge slashes, decode twice, put the
//! whole path into SCRIPT_NAME, or omit PATH_INFO. REQUEST_URI is what the visitor asked for, so it takes precedence
//! wherever it can be matched with the others. Pure functions of the variables in `PathVars`.

use super::Mount;
use crate::bytes::percent_decode;
use crate::config::ScriptName;
use std::borrow::Cow;

/// The variables about the path, as the web server sent them. Those that it did not send are empty.
#[derive(Default)]
pub(super) struct PathVars<'a> {
    pub(super) request_uri: &'a [u8],
    pub(super) script_name: &'a [u8],
    pub(super) path_info: &'a [u8],
    pub(super) script_filename: &'a [u8],
    pub(super) script_url: &'a [u8],
    pub(super) redirect_url: &'a [u8],
}

/// SCRIPT_NAME and PATH_INFO for the application.
pub(super) struct Split<'a> {
    pub(super) script_name: Cow<'a, [u8]>,
    pub(super) path_info: Cow<'a, [u8]>,
}

impl<'a> Split<'a> {
    /// Derives both. `normalise` documents the rules.
    pub(super) fn of(sent: &PathVars<'a>, mount: &Mount) -> Split<'a> {
        let mut split = Split::auto(sent, mount.file_name.as_bytes());
        while split.script_name.last() == Some(&b'/') {
            let end = split.script_name.len() - 1;
            split.script_name = before(split.script_name, end);
        }
        if let ScriptName::Forced(prefix) = &mount.script_name {
            split = split.forced(prefix.as_bytes(), mount);
        }
        if split.script_name.is_empty() && split.path_info.is_empty() {
            split.path_info = Cow::Borrowed(b"/");
        }
        split
    }

    fn new(script_name: Cow<'a, [u8]>, path_info: Cow<'a, [u8]>) -> Split<'a> {
        Split {
            script_name,
            path_info,
        }
    }

    fn at(path: Cow<'a, [u8]>, at: usize) -> Split<'a> {
        Split::new(before(path.clone(), at), after(path, at))
    }

    fn auto(sent: &PathVars<'a>, file: &[u8]) -> Split<'a> {
        let uri = path_of(sent.request_uri).map(|path| simplify(percent_decode(path)));
        let script = simplify(Cow::Borrowed(sent.script_name));
        let info = simplify(Cow::Borrowed(sent.path_info));
        if info.is_empty() {
            Split::without_path_info(sent, uri, script, file)
        } else {
            Split::with_path_info(sent, uri, script, info, file)
        }
    }

    fn with_path_info(
        sent: &PathVars<'a>,
        uri: Option<Cow<'a, [u8]>>,
        script: Cow<'a, [u8]>,
        info: Cow<'a, [u8]>,
        file: &[u8],
    ) -> Split<'a> {
        let known = uri.is_some();
        if let Some(uri) = uri {
            if uri.ends_with(&info) {
                let at = uri.len() - info.len();
                return Split::at(uri, at);
            }
            if let Some(at) = decoded_twice(&uri, &info) {
                return Split::at(uri, at);
            }
            // The server did not decode PATH_INFO (AllowEncodedSlashes NoDecode).
            let decoded = simplify(percent_decode(&info));
            if let Some(mount) = uri.strip_suffix(&*decoded) {
                let at = mount.len();
                return Split::at(uri, at);
            }
        }
        for earlier in [sent.script_url, sent.redirect_url] {
            let earlier = simplify(Cow::Borrowed(earlier));
            if earlier.ends_with(&info) {
                let at = earlier.len() - info.len();
                return Split::at(earlier, at);
            }
        }
        let at = directory(&script, file).filter(|_| known);
        let end = at.unwrap_or(script.len());
        Split::new(before(script, end), info)
    }

    fn without_path_info(
        sent: &PathVars<'a>,
        uri: Option<Cow<'a, [u8]>>,
        script: Cow<'a, [u8]>,
        file: &[u8],
    ) -> Split<'a> {
        let nothing = Cow::Borrowed(&b""[..]);
        let named = directory(&script, file);
        let Some(uri) = uri else {
            return match named {
                Some(_) => Split::new(script, nothing),
                None => Split::new(nothing, script),
            };
        };
        if let Some(at) = named {
            if let Some(at) = below(&uri, &script) {
                return Split::at(uri, at);
            }
            return match below(&uri, &script[..at]) {
                Some(at) => Split::at(uri, at),
                None => Split::new(before(script, at), Cow::Borrowed(b"/")),
            };
        }
        if uri == script {
            // SCRIPT_NAME is the whole path, or the mount point of a ScriptAlias.
            return match directory(sent.script_filename, file) {
                Some(_) if !sent.script_filename.starts_with(b"proxy:") => {
                    Split::new(script, nothing)
                }
                _ => Split::new(nothing, uri),
            };
        }
        if let Some(at) = below(&uri, script.strip_suffix(b"/").unwrap_or(&script)) {
            return Split::at(uri, at);
        }
        // The server decoded it twice, or not at all (mod_proxy with AllowEncodedSlashes NoDecode).
        let same =
            simplify(percent_decode(&uri)) == script || simplify(percent_decode(&script)) == uri;
        Split::new(nothing, if same { uri } else { script })
    }

    /// Splits the path after `prefix` instead. PATH_INFO stays as it is if the path is not below `prefix`.
    fn forced(self, prefix: &[u8], mount: &Mount) -> Split<'a> {
        let name = Cow::Owned(prefix.to_vec());
        // The executable's name in the URL is not part of the application's path.
        if directory(&self.script_name, mount.file_name.as_bytes()) == Some(prefix.len())
            && self.script_name.starts_with(prefix)
        {
            return Split::new(name, self.path_info);
        }
        let mut whole = self.script_name.into_owned();
        let at = whole.len();
        whole.extend_from_slice(&self.path_info);
        let at = below(&whole, prefix).unwrap_or(at);
        Split::new(name, after(Cow::Owned(whole), at))
    }
}

/// Where PATH_INFO begins in `uri`, if an internal redirect has decoded `info` a second time.
fn decoded_twice(uri: &[u8], info: &[u8]) -> Option<usize> {
    let twice = simplify(percent_decode(uri));
    let mount = twice.strip_suffix(info)?;
    below(uri, mount)
}

/// The length of `mount`, if `path` is `mount` or below it.
fn below(path: &[u8], mount: &[u8]) -> Option<usize> {
    let rest = path.strip_prefix(mount)?;
    matches!(rest.first(), None | Some(b'/')).then_some(mount.len())
}

/// The length of the directory part of a path, if its last segment is our executable.
fn directory(path: &[u8], file: &[u8]) -> Option<usize> {
    let slash = path.iter().rposition(|&b| b == b'/')?;
    let last = &path[slash + 1..];
    let ours = !last.is_empty() && (last == file || last.ends_with(b".fcgi"));
    ours.then_some(slash)
}

/// The path in a request target; `None` if it has none (`*`, empty).
pub(super) fn path_of(target: &[u8]) -> Option<&[u8]> {
    let end = target.iter().position(|&b| b == b'?');
    let path = &target[..end.unwrap_or(target.len())];
    if path.first() == Some(&b'/') {
        return Some(path);
    }
    let scheme = path.windows(3).position(|w| w == b"://")?;
    let authority = &path[scheme + 3..];
    match authority.iter().position(|&b| b == b'/') {
        Some(slash) => Some(&authority[slash..]),
        None => Some(b"/"),
    }
}

/// Makes a path start with `/`, merges slashes, and resolves `.` and `..`.
fn simplify(path: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    let plain = path.first() == Some(&b'/')
        && !path
            .windows(2)
            .any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'));
    if plain || path.is_empty() {
        return path;
    }
    let mut out: Vec<u8> = Vec::with_capacity(path.len() + 1);
    let mut directory = true;
    for segment in path.split(|&b| b == b'/') {
        directory = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => out.truncate(out.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if directory {
        out.push(b'/');
    }
    Cow::Owned(out)
}

fn before(bytes: Cow<'_, [u8]>, at: usize) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..at]),
        Cow::Owned(mut bytes) => {
            bytes.truncate(at);
            Cow::Owned(bytes)
        }
    }
}

fn after(bytes: Cow<'_, [u8]>, at: usize) -> Cow<'_, [u8]> {
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[at..]),
        Cow::Owned(mut bytes) => {
            bytes.drain(..at);
            Cow::Owned(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUB: &str = "/sub/dir/mysite.fcgi";

    /// The variables sent, and the two that the application must see.
    struct Row(
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        &'static str,
    );

    fn split(sent: PathVars<'_>, script_name: ScriptName) -> (String, String) {
        let mount = Mount::new(script_name, "mysite.fcgi", false);
        let split = Split::of(&sent, &mount);
        let text = |b: &[u8]| b.escape_ascii().to_string();
        (text(&split.script_name), text(&split.path_info))
    }

    #[rustfmt::skip]
    #[test]
    fn every_web_server_gives_the_same_split() {
        // REQUEST_URI, SCRIPT_NAME, PATH_INFO, REDIRECT_URL; then SCRIPT_NAME, PATH_INFO
        let fcgi = "/mysite.fcgi";
        let proxy_path = "/foo bar/\u{e9}";
        for Row(uri, script, info, redirect, name, path) in [
            // Apache, mod_rewrite in .htaccess
            Row("/", fcgi, "/", "/", "", "/"),
            Row("/foo/", fcgi, "/foo/", "/foo/", "", "/foo/"),
            Row("/foo/?a=/b//c%20", fcgi, "/foo/", "/foo/", "", "/foo/"),
            Row("/foo%20bar/%C3%A9", fcgi, "/foo bar/\u{e9}", "/foo bar/\u{e9}", "", "/foo bar/\\xc3\\xa9"),
            Row("/a//b", fcgi, "/a/b", "/a/b", "", "/a/b"),
            Row("/a//b", fcgi, "/a/b", "/a//b", "", "/a/b"),
            Row("//x/", fcgi, "/x/", "/x/", "", "/x/"),
            Row("/a%2Fb", fcgi, "/a/b", "/a/b", "", "/a/b"),
            Row("/a%2Fb", fcgi, "/a%2Fb", "/a%2Fb", "", "/a/b"),
            Row("/a%252Fb", fcgi, "/a/b", "/a%2Fb", "", "/a%2Fb"),
            Row("/100%25/", fcgi, "/100%/", "/100%/", "", "/100%/"),
            Row("/a%252525b", fcgi, "/a%25b", "/a%2525b", "", "/a%2525b"),
            Row("/x/../foo/./", fcgi, "/foo/", "/foo/", "", "/foo/"),
            Row("/sub/dir/foo/", SUB, "/foo/", "/sub/dir/foo/", "/sub/dir", "/foo/"),
            Row("/sub/dir/", SUB, "/", "/sub/dir/", "/sub/dir", "/"),
            Row("/sub/dir/a%252Fb", SUB, "/a/b", "/sub/dir/a%2Fb", "/sub/dir", "/a%2Fb"),
            Row("/my%20site/a", "/my site/mysite.fcgi", "/a", "/my site/a", "/my site", "/a"),
            Row("/shop/x", fcgi, "/x", "/shop/x", "/shop", "/x"),
            Row("/mysite.fcgi/foo/", fcgi, "/foo/", "", "/mysite.fcgi", "/foo/"),
            Row("/mysite.fcgi", fcgi, "", "", "/mysite.fcgi", ""),
            Row("/mysite.fcgi?q=1", fcgi, "", "", "/mysite.fcgi", ""),
            Row("/sub/dir/mysite.fcgi/", SUB, "/", "", "/sub/dir/mysite.fcgi", "/"),
            // rewritten twice; an ErrorDocument
            Row("/old/x", fcgi, "/new/x", "/new/x", "", "/new/x"),
            Row("/missing", fcgi, "/not-found", "/missing", "", "/not-found"),
            // ScriptAlias / and a rule of the virtual host
            Row("/foo/", "", "/foo/", "", "", "/foo/"),
            Row("/app/foo", "/app", "/foo", "", "/app", "/foo"),
            // FallbackResource, DirectoryIndex
            Row("/foo/", fcgi, "", "", "", "/foo/"),
            Row("/foo/?a=b", fcgi, "", "/foo/", "", "/foo/"),
            Row("/a%252Fb", fcgi, "", "", "", "/a%2Fb"),
            Row("/", fcgi, "", "", "", "/"),
            Row("/sub/dir/foo/", SUB, "", "", "/sub/dir", "/foo/"),
            Row("/elsewhere/", SUB, "", "", "/sub/dir", "/"),
            Row("/mysite.fcgix/", fcgi, "", "", "", "/mysite.fcgix/"),
            Row("/foo/", "/wrapped.fcgi", "", "", "", "/foo/"),
            // mod_proxy_fcgi, mod_proxy_scgi, nginx with the stock fastcgi_params
            Row("/foo/", "/foo/", "", "", "", "/foo/"),
            Row("/foo%20bar/%C3%A9", proxy_path, "", "", "", "/foo bar/\\xc3\\xa9"),
            Row("/a//b", "/a/b", "", "", "", "/a/b"),
            Row("/a//b", "/a//b", "", "", "", "/a/b"),
            Row("/a%2Fb", "/a/b", "", "", "", "/a/b"),
            Row("/a%252Fb", "/a%2Fb", "", "", "", "/a%2Fb"),
            Row("/a%2Fb", "/a%2Fb", "", "", "", "/a/b"),
            Row("/", "/", "", "", "", "/"),
            Row("/old/x", "/new/x", "", "", "", "/new/x"),
            // nginx with fastcgi_split_path_info, or PATH_INFO alone
            Row("/foo/", "", "/foo/", "", "", "/foo/"),
            Row("/foo/bar", "/", "foo/bar", "", "", "/foo/bar"),
            Row("/foo/", "/foo/", "/foo/", "", "", "/foo/"),
            Row("/app/foo", "/app", "", "", "/app", "/foo"),
            // lighttpd
            Row("/foo/", "", "/foo/", "", "", "/foo/"),
            Row("/f/y", "/f", "/y", "", "/f", "/y"),
            Row("/foo%20bar/%C3%A9", "/foo bar", "/\u{e9}", "", "/foo bar", "/\\xc3\\xa9"),
            // HAProxy, Caddy, h2o
            Row("/a//b", "", "/a//b", "", "", "/a/b"),
            Row("/a%2Fb", "", "/a/b", "", "", "/a/b"),
            Row("/a/../b", "", "/a/../b", "", "", "/b"),
            Row("http://example.org/foo?x", "", "/foo", "", "", "/foo"),
            Row("http://example.org", "", "/", "", "", "/"),
            // AJP
            Row("/foo/bar", "", "/foo/bar", "", "", "/foo/bar"),
            Row("/foo/bar", "", "", "", "", "/foo/bar"),
            // plain CGI without REQUEST_URI
            Row("", "/cgi-bin/mysite.fcgi", "/foo/", "", "/cgi-bin/mysite.fcgi", "/foo/"),
            Row("", "/cgi-bin/mysite.fcgi", "", "", "/cgi-bin/mysite.fcgi", ""),
            Row("", fcgi, "/foo/", "/foo/", "", "/foo/"),
            Row("", "", "", "", "", "/"),
            Row("", "/foo", "", "", "", "/foo"),
            Row("/cgi-bin/mysite.fcgi/foo/", "/cgi-bin/mysite.fcgi", "/foo/", "", "/cgi-bin/mysite.fcgi", "/foo/"),
            // edge cases
            Row("*", "", "", "", "", "/"),
            Row("/%00/%zz%4", "", "", "", "", "/%00/%zz%4"),
            Row("/../../etc", "", "", "", "", "/etc"),
            Row("/a/..", "", "", "", "", "/"),
            Row("/.well-known/x", fcgi, "/.well-known/x", "", "", "/.well-known/x"),
        ] {
            let got = split(
                PathVars {
                    request_uri: uri.as_bytes(),
                    script_name: script.as_bytes(),
                    path_info: info.as_bytes(),
                    redirect_url: redirect.as_bytes(),
                    ..PathVars::default()
                },
                ScriptName::Auto,
            );
            assert_eq!(got, (name.to_string(), path.to_string()), "{uri} {script} {info} {redirect}");
        }
    }

    #[test]
    fn a_script_alias_without_a_slash_is_not_taken_for_a_whole_path() {
        for (file, want) in [
            ("/srv/mysite.fcgi", ("/app", "")),
            ("/srv/app", ("", "/app")),
            ("proxy:fcgi://127.0.0.1/mysite.fcgi", ("", "/app")),
        ] {
            let sent = PathVars {
                request_uri: b"/app",
                script_name: b"/app",
                script_filename: file.as_bytes(),
                ..PathVars::default()
            };
            let (name, path) = split(sent, ScriptName::Auto);
            assert_eq!((&*name, &*path), want, "{file}");
        }
    }

    #[test]
    fn a_forced_script_name_takes_precedence() {
        for (prefix, uri, script, info, path) in [
            ("/sub", "/sub/foo/", "/sub/foo/", "", "/foo/"),
            ("/sub/", "/sub/foo/", "/sub/foo/", "", "/foo/"),
            ("/sub", "/sub", "/sub", "", ""),
            ("/sub", "/subway/", "", "/subway/", "/subway/"),
            ("/sub", "/foo/", "/mysite.fcgi", "/foo/", "/foo/"),
            ("", "/sub/dir/foo", SUB, "/foo", "/sub/dir/foo"),
            ("", "/mysite.fcgi/foo/", "/mysite.fcgi", "/foo/", "/foo/"),
            (
                "/sub/dir",
                "/sub/dir/mysite.fcgi/foo/",
                SUB,
                "/foo/",
                "/foo/",
            ),
            ("", "/", "/mysite.fcgi", "/", "/"),
            ("", "", "/", "/a", "/a"),
            ("/sub", "/sub/a%252Fb", "/sub/a%2Fb", "", "/a%2Fb"),
        ] {
            let sent = PathVars {
                request_uri: uri.as_bytes(),
                script_name: script.as_bytes(),
                path_info: info.as_bytes(),
                ..PathVars::default()
            };
            let got = split(sent, ScriptName::Forced(prefix.into()));
            let name = prefix.trim_end_matches('/').to_string();
            assert_eq!(got, (name, path.to_string()), "{prefix} {uri}");
        }
    }
}
