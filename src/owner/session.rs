//! `Session`: a login at the desk. It is a signed cookie, and a token in each form that protects against cross-site
//! requests.
//!
//! Sessions are stateless: all fronts of a site know the secret, so any of them can verify the cookie. Does no I/O; the
//! time and the random bytes are arguments.

use crate::bytes::{is_secret, to_hex};
use hmac_sha256::HMAC;

/// How long a session lasts, in seconds.
pub(super) const LIFETIME: u64 = 3600;
/// Name of the cookie.
pub(super) const COOKIE: &str = "runfcgi-desk";
/// Cookies of that name that are verified; the rest are ignored. A browser sends one for each matching path.
const MAX_COOKIES: usize = 4;

/// A session: a new one, or one from a cookie with a valid signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// `<expiry, in seconds since 1970>.<random bytes, in hexadecimal>`.
    id: String,
}

impl Session {
    /// A new session, for a client that has just sent the secret. `now` is in seconds since 1970.
    pub(super) fn start(now: u64, random: [u8; 16]) -> Session {
        Session {
            id: format!("{}.{}", now + LIFETIME, to_hex(&random)),
        }
    }

    /// The session in a `Cookie` header, if its signature is valid for this secret and it has not expired.
    pub(super) fn find(cookies: &[u8], secret: &str, now: u64) -> Option<Session> {
        let values = cookies.split(|b| *b == b';').filter_map(|cookie| {
            let value = cookie.trim_ascii().strip_prefix(COOKIE.as_bytes())?;
            value.strip_prefix(b"=")
        });
        let mut ours = values
            .take(MAX_COOKIES)
            .filter_map(|value| Session::verify(value, secret));
        ours.find(|session| {
            session
                .expiry()
                .is_some_and(|expiry| (now..=now + LIFETIME).contains(&expiry))
        })
    }

    /// The session in a cookie's value, if its signature is valid.
    fn verify(value: &[u8], secret: &str) -> Option<Session> {
        let (id, signature) = std::str::from_utf8(value).ok()?.rsplit_once('.')?;
        let session = Session { id: id.to_owned() };
        let expected = session.sign("session", secret);
        is_secret(signature.as_bytes(), expected.as_bytes()).then_some(session)
    }

    /// Seconds since 1970.
    fn expiry(&self) -> Option<u64> {
        self.id.split('.').next()?.parse().ok()
    }

    /// The value of `Set-Cookie` that gives the browser this session, for `path` and below.
    pub(super) fn cookie(&self, path: &str, secret: &str, https: bool) -> String {
        let signature = self.sign("session", secret);
        let value = format!("{}.{signature}", self.id);
        set_cookie(&value, LIFETIME, path, https)
    }

    /// The token that each form of this session must carry.
    pub(super) fn token(&self, secret: &str) -> String {
        self.sign("form", secret)
    }

    /// Whether a form's token is the one of this session.
    pub(super) fn accepts(&self, token: &str, secret: &str) -> bool {
        is_secret(token.as_bytes(), self.token(secret).as_bytes())
    }

    /// HMAC-SHA256 of the session, in hexadecimal. A signature for one `purpose` is not valid for another.
    fn sign(&self, purpose: &str, secret: &str) -> String {
        to_hex(&HMAC::mac(
            format!("runfcgi desk\0{purpose}\0{}", self.id),
            secret,
        ))
    }
}

/// The value of `Set-Cookie` that makes the browser delete the cookie.
pub(super) fn expired_cookie(path: &str, https: bool) -> String {
    set_cookie("", 0, path, https)
}

fn set_cookie(value: &str, max_age: u64, path: &str, https: bool) -> String {
    let secure = if https { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Max-Age={max_age}; Path={path}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a long random text";
    const NOW: u64 = 1_800_000_000;

    fn value(session: &Session) -> String {
        let cookie = session.cookie("/-/x", SECRET, true);
        cookie.split(';').next().unwrap().to_owned()
    }

    fn finds(cookies: &str, secret: &str, now: u64) -> bool {
        Session::find(cookies.as_bytes(), secret, now).is_some()
    }

    #[test]
    fn the_signature_is_hmac_sha256() {
        // RFC 4231, test case 2.
        let mac = HMAC::mac("what do ya want for nothing?", "Jefe");
        assert!(to_hex(&mac).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }

    #[test]
    fn a_session_lasts_an_hour() {
        let cookie = value(&Session::start(NOW, [7; 16]));
        assert!(finds(&cookie, SECRET, NOW) && finds(&cookie, SECRET, NOW + LIFETIME));
        assert!(finds(&format!("a=b; {COOKIE}=x.y; {cookie}"), SECRET, NOW));
        assert!(!finds(&cookie, SECRET, NOW + LIFETIME + 1));
        assert!(!finds(&cookie, "another secret", NOW));
        assert!(!finds("", SECRET, NOW));
    }

    #[test]
    fn no_part_of_it_can_be_changed() {
        let cookie = value(&Session::start(NOW, [7; 16]));
        for at in COOKIE.len() + 1..cookie.len() {
            let mut other = cookie.clone().into_bytes();
            other[at] = if other[at] == b'1' { b'2' } else { b'1' };
            let other = String::from_utf8(other).unwrap();
            assert!(!finds(&other, SECRET, NOW), "{other}");
        }
        let longer = value(&Session::start(NOW + 2 * LIFETIME, [7; 16]));
        assert!(
            !finds(&longer, SECRET, NOW),
            "no session lasts longer than an hour"
        );
    }

    #[test]
    fn a_form_belongs_to_its_session() {
        let [one, other] = [1, 2].map(|n| Session::start(NOW, [n; 16]));
        assert!(one.accepts(&one.token(SECRET), SECRET));
        assert!(!one.accepts(&other.token(SECRET), SECRET));
        assert!(!one.accepts("", SECRET));
        assert_ne!(one.token(SECRET), one.sign("session", SECRET));
    }

    #[test]
    fn the_cookie_is_for_the_desk_alone() {
        let cookie = Session::start(NOW, [7; 16]).cookie("/shop/-/x", SECRET, true);
        for part in [
            "Max-Age=3600",
            "Path=/shop/-/x",
            "HttpOnly",
            "SameSite=Strict",
            "Secure",
        ] {
            assert!(cookie.split("; ").any(|has| has == part), "{cookie}");
        }
        assert!(!expired_cookie("/", false).contains("Secure"));
    }
}
