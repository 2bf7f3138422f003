//! The log page: the end of the site's own log file, and a link to download the whole file.

use super::page::Frame;
use super::response::Response;
use crate::pages::escape_html;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes shown, counted from the end of the file.
const TAIL_BYTES: u64 = 48 << 10;

/// How the first line of an event names its level, and the CSS class of that.
const LEVELS: [(&str, &str); 2] = [("] error: ", "bad"), ("] warning: ", "busy")];

/// Renders the page. Masks the desk's secret, in case the app has logged it.
pub(super) fn render(frame: &Frame<'_>, log: Option<&Path>, secret: &str) -> Response {
    let main = match log {
        None => String::from(
            "<section>\n<h2>The log is the web server's</h2>\n<p>This site has no log file of its own. Its messages go to the \
             web server's error log, which the host's control panel may show. To see them here, set \
             <code>file = \"../mysite.log\"</code> below <code>[log]</code> in the settings.</p>\n</section>\n",
        ),
        Some(path) => match tail(path) {
            Ok(text) => format!(
                "<section>\n<div class=\"task\">\n<div>\n<h2>The end of the log</h2>\n<p class=\"s\">{}</p>\n</div>\n\
                 <p class=\"quiet\"><a class=\"button\" href=\"{}/log/download\">Download all of it</a></p>\n</div>\n\
                 <div class=\"scroll end\" tabindex=\"0\"><pre class=\"log\">{}</pre></div>\n</section>\n",
                escape_html(&path.display().to_string()),
                escape_html(frame.url),
                lines(&text.replace(secret, "[secret]")),
            ),
            Err(error) => format!(
                "<section class=\"alarm\">\n<h2>The log cannot be read</h2>\n<pre>{}: {error}</pre>\n</section>\n",
                escape_html(&path.display().to_string()),
            ),
        },
    };
    frame.render((200, "OK"), "Log", "", &main)
}

/// Opens the log, which must be a regular file. Returns its length in bytes as well.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(path)?;
    let meta = file.metadata()?;
    match meta.is_file() {
        true => Ok((file, meta.len())),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// The lines of a log as HTML. Those that tell of an error or a warning stand out.
fn lines(text: &str) -> String {
    let line = |line: &str| {
        let class = LEVELS.iter().find(|(level, _)| line.contains(level));
        let class = class.map_or("", |(_, class)| class);
        format!("<span class=\"{class}\">{}</span>\n", escape_html(line))
    };
    text.lines().map(line).collect()
}

/// The last `TAIL_BYTES` of the file, from the beginning of a line.
fn tail(path: &Path) -> io::Result<String> {
    let (mut file, length) = open(path)?;
    let begin = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let cut = if begin > 0 {
        text.find('\n').map_or(0, |at| at + 1)
    } else {
        0
    };
    Ok(text[cut..].to_owned())
}
