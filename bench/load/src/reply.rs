//! Is a reply what was asked for? Every byte is compared as it arrives, in slices, so that large replies cost little.

use crate::http::{self, MESSAGE};
use crate::pattern;

/// Room for a head and the line with the server's name.
const START: usize = 192;
/// What the head ends with; it is the beginning of the body.
const NAME: &[u8] = b"server=";

/// What all replies to one request have in common.
pub struct Expected {
    /// All up to the server's name.
    head: Vec<u8>,
    /// Length of the head and the line with the name.
    start: usize,
    /// The body behind that line.
    rest: Vec<u8>,
}

/// How much of a reply has arrived. It is as it should be so far.
pub struct Progress {
    start: [u8; START],
    arrived: usize,
}

impl Expected {
    /// Replies with a body of `size` bytes, followed by a close or not.
    pub fn new(size: usize, close: bool) -> Self {
        let head = http::head(size, close);
        let start = head.len() - NAME.len() + MESSAGE;
        Self { head, start, rest: pattern::bytes(size - MESSAGE) }
    }

    /// Take the next bytes of a reply. True when it is whole, `Err` when it is not as it should be or goes on behind its
    /// end.
    pub fn take(&self, progress: &mut Progress, mut bytes: &[u8]) -> Result<bool, ()> {
        if progress.arrived < self.start {
            let length = bytes.len().min(self.start - progress.arrived);
            progress.start[progress.arrived..progress.arrived + length].copy_from_slice(&bytes[..length]);
            progress.arrived += length;
            bytes = &bytes[length..];
            let common = progress.arrived.min(self.head.len());
            if progress.start[..common] != self.head[..common] {
                return Err(());
            }
            if progress.arrived == self.start && !is_name(&progress.start[self.head.len()..self.start]) {
                return Err(());
            }
        }
        let from = progress.arrived.saturating_sub(self.start);
        match self.rest.get(from..from + bytes.len()) {
            Some(rest) if rest == bytes => {}
            _ => return Err(()),
        }
        progress.arrived += bytes.len();
        Ok(progress.arrived == self.start + self.rest.len())
    }

    /// The server that gave a reply, of which at least the line with the name has arrived.
    pub fn server<'a>(&self, progress: &'a Progress) -> &'a [u8] {
        progress.start[self.head.len()..self.start].trim_ascii_end()
    }

    /// Payload of a reply, in bytes.
    pub fn size(&self) -> usize {
        MESSAGE + self.rest.len()
    }
}

impl Progress {
    /// Nothing has arrived.
    pub const fn new() -> Self {
        Self { start: [0; START], arrived: 0 }
    }

    /// Wait for the next reply.
    pub const fn reset(&mut self) {
        self.arrived = 0;
    }
}

/// A name, blanks, and the end of the line.
fn is_name(line: &[u8]) -> bool {
    let Some((b'\n', text)) = line.split_last() else { return false };
    let name = text.trim_ascii_end();
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_graphic())
        && text[name.len()..].iter().all(|it| *it == b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn server() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    fn take(size: usize, bytes: &[u8], piece: usize) -> Result<bool, ()> {
        let (expected, mut progress) = (Expected::new(size, false), Progress::new());
        let mut whole = false;
        for bytes in bytes.chunks(piece) {
            whole = expected.take(&mut progress, bytes)?;
        }
        assert!(!whole || expected.server(&progress) == b"127.0.0.1:80");
        Ok(whole)
    }

    #[test]
    fn a_reply_is_valid_only_when_it_is_whole_and_nothing_more() {
        for size in [MESSAGE, MESSAGE + 1, 16_384] {
            let bytes = http::reply(server(), size, false);
            for piece in [1, 7, 100, bytes.len() + 1] {
                assert_eq!(take(size, &bytes, piece), Ok(true), "{size} by {piece}");
                assert_eq!(take(size, &bytes[..bytes.len() - 1], piece), Ok(false));
                assert_eq!(take(size, &[&bytes[..], b"x"].concat(), piece), Err(()));
            }
        }
    }

    /// Without it a proxy that damages or mixes up data would look fast.
    #[test]
    fn every_byte_counts() {
        let bytes = http::reply(server(), 4096, false);
        let name = bytes.len() - 4096 + NAME.len();
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] = 0;
            if !(name..name + b"127.0.0.1:80".len()).contains(&place) {
                assert!(take(4096, &changed, 500).is_err(), "{place}");
            }
        }
        let mut moved = bytes;
        moved[1000..3000].rotate_left(64);
        assert_eq!(take(4096, &moved, 500), Err(()));
        assert_eq!(take(MESSAGE, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 500), Err(()));
        assert_eq!(take(MESSAGE, &http::reply(server(), MESSAGE, true), 500), Err(()));
    }
}
