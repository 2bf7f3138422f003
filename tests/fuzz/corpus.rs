//! What the targets begin with: the bytes of the transcripts, the examples of the settings, and some of each file.

use crate::notation::parse_bytes;
use crate::targets::files::{FOUND, TASK};
use runfcgi::config::table::{OPTIONS, SECTIONS};
use runfcgi::pairs::Pairs;
use runfcgi::proto::fastcgi::FastCgi;
use runfcgi::proto::scgi::Scgi;
use runfcgi::proto::{Codec, Event};
use runfcgi::status::{Note, RunningRequest, Snapshot, Worker};
use runfcgi::workers::wire;
use std::fs;
use std::path::{Path, PathBuf};

/// The seeds of a target.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let seeds = match target {
        "fastcgi" | "scgi" | "ajp13" => said(target),
        "cgi" => cgi(),
        "traffic" => traffic(),
        "frames" => frames(),
        "request" | "environ" => environs(),
        "head" => heads(),
        "config" => settings(),
        "options" => options(),
        "status" => vec![report(), nested()],
        "rundir" => files(),
        _ => panic!("no seeds for {target}"),
    };
    assert!(!seeds.is_empty(), "{target}");
    seeds
}

/// The lines of each transcript in a folder below `tests`.
fn transcripts(folder: &str) -> Vec<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    let lines = |file| {
        let text = fs::read_to_string(file).expect("readable");
        text.lines().map(str::to_owned).collect()
    };
    files.into_iter().map(lines).collect()
}

/// What the peer says in the transcripts of a codec.
fn said(codec: &str) -> Vec<Vec<u8>> {
    let transcripts = transcripts(&format!("wire/{codec}")).into_iter();
    let large = match codec {
        "fastcgi" => "[begin 1 00 01 01 00*5] [params 1 \"A\"=\"x\"*4500]",
        "scgi" => "netstring(\"A\" 00 \"x\"*4500 00)",
        "ajp13" => "12 34 {02 02 {\"x\"*4500} 00}",
        _ => "",
    };
    let large = parse_bytes(large).expect("bytes");
    let each = transcripts.map(|lines| {
        let said = lines.iter().filter_map(|line| line.strip_prefix('>'));
        said.flat_map(|bytes| parse_bytes(bytes.trim()).expect("bytes"))
            .collect()
    });
    each.chain([large]).collect()
}

/// The length of the environment, the environment, the body.
fn cgi() -> Vec<Vec<u8>> {
    let transcripts = transcripts("wire/cgi").into_iter().zip(said("cgi"));
    let each = transcripts.map(|(lines, body)| {
        let pairs = lines.iter().filter_map(|line| line.strip_prefix("% env "));
        let environ: String = pairs
            .map(|pair| pair.trim().replacen('=', "\0", 1) + "\0")
            .collect();
        let length = (environ.len() as u16).to_be_bytes();
        [&length, environ.as_bytes(), &body].concat()
    });
    each.collect()
}

/// The number of the protocol, and what its transcripts say.
fn traffic() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (which, codec) in ["fastcgi", "scgi", "ajp13"].iter().enumerate() {
        for said in said(codec) {
            seeds.push([&[which as u8], &said[..]].concat());
            seeds.push([&[which as u8 + 3], &said[..]].concat());
        }
    }
    seeds
}

/// Variables, as web servers send them in the transcripts, and some of which paths are made.
fn environs() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        b"REQUEST_URI\0/a%2Fb/../c//d?e=f\0SCRIPT_NAME\0/mysite.fcgi\0PATH_INFO\0/a/b\0".to_vec(),
        b"REQUEST_URI\0/shop/x%252Fy\0SCRIPT_NAME\0/shop\0PATH_INFO\0/x/y\0REDIRECT_URL\0/shop/x%2Fy\0".to_vec(),
        b"SERVER_SOFTWARE\0Cherokee\0REQUEST_URI\0/a b?c\0SCRIPT_NAME\0/a b\0SCRIPT_URL\0/a b\0".to_vec(),
        b"REQUEST_URI\0/./a/.//b/./?c\0SCRIPT_NAME\0/./\0PATH_INFO\0/a/./b/.\0".to_vec(),
        b"REDIRECT_REDIRECT_SITE\0a\0REDIRECT_HTTP_AUTHORIZATION\0Basic a\0REMOTE_USER\0ann\0HTTP_PROXY\0x\0HTTP_COOKIE\0a\0HTTP_COOKIE\0b\0".to_vec(),
        b"SERVER_NAME\0[::1]:80\0HTTP_HOST\0a:8080\0HTTPS\0on\0CONTENT_LENGTH\x005\0SCRIPT_FILENAME\0proxy:fcgi://a/mysite.fcgi\0".to_vec(),
    ];
    let fastcgi = || Box::new(FastCgi::new(1 << 16, 100, 100)) as Box<dyn Codec>;
    let scgi = || Box::new(Scgi::new(1 << 16)) as Box<dyn Codec>;
    for (name, codec) in [
        ("fastcgi", &fastcgi as &dyn Fn() -> Box<dyn Codec>),
        ("scgi", &scgi),
    ] {
        for said in said(name) {
            let (mut codec, mut input, mut out) = (codec(), &said[..], Vec::new());
            while let Ok(Some(event)) = codec.decode(&mut input, &mut out) {
                if let Event::Begin { environ, .. } = event {
                    seeds.push(environ.as_bytes().to_vec());
                }
            }
        }
    }
    seeds
}

/// The heads of responses in all transcripts, in their form on the private wire.
fn heads() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for folder in ["wire/fastcgi", "wire/ajp13", "machines/traffic"] {
        for line in transcripts(folder).iter().flatten() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            let head = match words[..] {
                ["@", _, "head", head] => head.replace(" | ", "\0").replace(": ", "\0"),
                [">", "head", _, head] => head.replace('|', "\0"),
                _ => continue,
            };
            seeds.push([head.as_bytes(), b"\0"].concat());
        }
    }
    seeds
}

/// What Python says on its three channels.
fn frames() -> Vec<Vec<u8>> {
    let mut known = Pairs::new();
    for (name, value) in [
        ("kind", "KeyError"),
        ("summary", "KeyError: 1"),
        ("pid", "7"),
        ("shape", "4 outlog"),
    ] {
        known.push(name.as_bytes(), value.as_bytes());
    }
    let (known, pid) = (known.as_bytes(), 7u32.to_be_bytes());
    let ended = [&pid, &9u32.to_be_bytes()[..], b"killed"].concat();
    let frames = |frames: &[(u8, &[u8])]| {
        let mut out = Vec::new();
        frames
            .iter()
            .for_each(|(kind, payload)| wire::put_frame(&mut out, *kind, payload));
        out
    };
    vec![
        frames(&[
            (wire::STARTED, &pid),
            (wire::LOG, b"a note\n"),
            (wire::HEAD, b"200 OK\0Content-Type\0text/plain\0"),
            (wire::OUTPUT, b"printed\n"),
            (wire::DATA, b"body"),
            (wire::DATA, b""),
            (wire::FILE, &[1; 16]),
            (wire::END, b""),
        ]),
        frames(&[(wire::BOOT_FAILED, b"ImportError")]),
        frames(&[
            (wire::STARTED, &pid),
            (wire::CAUGHT, known),
            (wire::EXCEPTION, known),
            (wire::END, b""),
        ]),
        frames(&[
            (wire::READY, known),
            (wire::FORKED, &pid),
            (wire::WAITING, b"maxchildren"),
            (wire::GIVEN, known),
        ]),
        frames(&[
            (wire::REFUSED, b"EAGAIN"),
            (wire::RELEASE, b""),
            (wire::EXITED, &ended),
            (wire::FAILED, b"why"),
        ]),
    ]
}

/// All settings with their examples, each section alone, and what is often wrong.
fn settings() -> Vec<Vec<u8>> {
    let section = |name: &str| {
        let rows = OPTIONS.iter().filter(|row| row.section == name);
        let lines = rows.map(|row| format!("{} = {}\n", row.key, row.example));
        format!("[{name}]\n{}", lines.collect::<String>())
    };
    let app = "[app]\npath = \"/srv/site\"\nsettings = \"site.settings\"\n";
    let mut seeds: Vec<Vec<u8>> = SECTIONS
        .iter()
        .map(|(name, _)| section(name).into())
        .collect();
    let all: String = SECTIONS.iter().map(|(name, _)| section(name)).collect();
    seeds.push(all.into());
    for more in [
        "",
        "[env]\nA = \"b\"\nN = 5\nF = 1.5\n",
        "[server]\nsocket = \"a.sock\"\nprotocol = \"scgi\"\nthreads = \"8\"\n",
        "[server]\nhost = \"localhost\"\nport = 3033\n",
        "[limits]\nmax_body = \"10M\"\nread_timeout = \"5m\"\n[restart]\nwatch = [\"~/a\", 'b']\n",
        "[owner]\npath = \"/desk\"\nsecret = '''long\\nenough'''\n[owner]\n",
        "[sever]\nport = 0xff\n[app]\nx.y = { a = 1979-05-27T07:32:00Z }\n\"\\u001b\" = -0\n",
    ] {
        seeds.push([app, more].concat().into());
    }
    seeds.push(nested());
    seeds
}

/// What would be too deep for a parser that calls itself for each bracket.
fn nested() -> Vec<u8> {
    format!("a = {}", "[".repeat(5000)).into()
}

/// Each option with its example, and command lines.
fn options() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = vec![
        OPTIONS
            .iter()
            .map(|row| row.as_option() + "\n")
            .collect::<String>()
            .into(),
    ];
    for line in [
        "runfcgi method=threaded host=127.0.0.1 port=3033 settings=a.b",
        "socket=a.sock protocol=scgi socket=b.sock host=::1 port=80 daemonize=false wsgi=a:b",
        "--config /nowhere/a.toml --debug umask=0002 maxrequests=-1 port=99999",
        "check --json --url https://example.org/ --config a",
        "init --yes --print --project . --python 3.11 --platform a --remote",
        "help limits.max_body",
        "explain RF0315",
        "completions bash",
        "runfcgi status --json",
        "debug=false workdir=a pidfile=b secret=c errlog=~/d",
    ] {
        seeds.push(line.replace(' ', "\n").into());
    }
    seeds
}

/// The report of a front.
fn report() -> Vec<u8> {
    let snapshot = Snapshot {
        pid: std::process::id(),
        role: String::from("mod_fcgid"),
        code: String::from("1f"),
        config: String::from("/nowhere/site.toml"),
        trouble: String::from("<fuzz> trouble"),
        queued: 1 << 40,
        last_failure: Some(Note {
            at: 5,
            text: String::from("GET /<fuzz>"),
        }),
        workers: vec![Worker {
            pid: 7,
            served: 12,
            failure: String::from("<fuzz>"),
            requests: vec![RunningRequest {
                since: 3,
                summary: String::from("GET /<fuzz>"),
            }],
            ..Worker::default()
        }],
        ..Snapshot::default()
    };
    let text = snapshot.encode();
    text.split_once('\n')
        .map_or(Vec::new(), |(_, report)| report.into())
}

/// The number of a file in the runtime directory, and what it may hold.
fn files() -> Vec<Vec<u8>> {
    let journal = "\n1\t1700000000000\t3\t0123abcd\tRF0315\tKeyError\tGET /<fuzz>\t<fuzz>\tshop/views.py:12 in a\tadd <fuzz>\tTraceback\\n  <fuzz>\n";
    let lock = "7 ready\nserving = 2\nwaiting = 1\nmost = 3\nwhy = \"<fuzz>\"\n[[kept]]\npid = 9\nserved = 4\nsince = 5\n# end\n";
    let good = "1f\n/nowhere/site.toml\n[app]\nsettings = \"a.b\"\npath = \"/srv\"\n";
    let files: [&[u8]; 8] = [
        journal.as_bytes(),
        lock.as_bytes(),
        &report(),
        good.as_bytes(),
        TASK.as_bytes(),
        b"a line of <fuzz>\n\x1b[31m",
        FOUND.as_bytes(),
        b"3          1699999999          \n",
    ];
    let numbered = files.iter().enumerate();
    let mut seeds: Vec<Vec<u8>> = numbered
        .map(|(at, file)| [&[at as u8], *file].concat())
        .collect();
    for at in [1, 2, 4] {
        seeds.push([&[at, b'7', b'\n'], &nested()[..]].concat());
    }
    seeds
}
