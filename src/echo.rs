//! The echo: how `check --url` recognizes this program behind a web server, and learns what arrives of its requests.
//!
//! `check` writes a random key into the runtime directory, where only the account can read it, and sends a number that it
//! signs with the key. A front that finds the signature valid answers the request by itself: with a list of what
//! arrived, signed as well. The key is never sent, and it expires. For everybody else there is no echo: their requests go
//! to the app. Does no I/O.

use crate::bytes::{is_secret, to_hex};
use hmac_sha256::HMAC;

/// The header that asks for the echo: `<number>.<signature>`.
pub const HEADER: &str = "X-Runfcgi-Echo";
/// The same as a variable of the request.
pub const VARIABLE: &[u8] = b"HTTP_X_RUNFCGI_ECHO";
/// How long fronts accept a key after it was written, in seconds.
pub const LIFETIME: u64 = 600;
/// The length of a key, in bytes.
pub const KEY: usize = 32;

/// The key of one run of `check`.
#[derive(Clone)]
pub struct Key(pub [u8; KEY]);

impl Key {
    /// The value of the header for request `number`.
    pub fn ask(&self, number: u64) -> String {
        format!("{number}.{}", self.sign(&format!("ask {number}")))
    }

    /// The number in the value of the header, if its signature is valid.
    pub fn asked(&self, value: &[u8]) -> Option<u64> {
        let (number, _) = std::str::from_utf8(value).ok()?.split_once('.')?;
        let number = number.parse().ok()?;
        is_secret(value, self.ask(number).as_bytes()).then_some(number)
    }

    /// The body of the response to request `number`: the signature, then the facts.
    pub fn tell(&self, number: u64, facts: &str) -> String {
        let signature = self.sign(&format!("tell {number} {facts}"));
        format!("{signature}\n{facts}")
    }

    /// The facts in the body of a response to request `number`, if its signature is valid.
    pub fn told<'a>(&self, number: u64, body: &'a str) -> Option<&'a str> {
        let (_, facts) = body.split_once('\n')?;
        is_secret(body.as_bytes(), self.tell(number, facts).as_bytes()).then_some(facts)
    }

    fn sign(&self, text: &str) -> String {
        to_hex(&HMAC::mac(format!("runfcgi echo\0{text}"), self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_asks_and_tells() {
        let (key, other) = (Key([1; KEY]), Key([2; KEY]));
        let asked = key.ask(7);
        assert_eq!(key.asked(asked.as_bytes()), Some(7));
        assert_eq!(other.asked(asked.as_bytes()), None);
        let told = key.tell(7, "body 5\n");
        assert_eq!(key.told(7, &told), Some("body 5\n"));
        for (number, body) in [(8, &*told), (7, &told[1..]), (7, &told.replace('5', "6"))] {
            assert_eq!(key.told(number, body), None);
        }
        for wrong in [
            "",
            "7",
            "7.",
            "8.",
            &asked[..20],
            &asked.replace("7.", "8."),
            "-1.x",
        ] {
            assert_eq!(key.asked(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
