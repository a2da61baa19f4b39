//! The few fixed messages that clients and backends exchange: requests of 64 bytes, replies of the size asked for.

use std::net::SocketAddr;

use crate::pattern;

/// Size of a request, and of the smallest reply's body, in bytes.
pub const MESSAGE: usize = 64;
/// The largest body.
pub const MAX_SIZE: usize = 1 << 20;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One reply with a body of so many bytes; then the server closes, or not.
    Reply {
        /// `MESSAGE` to `MAX_SIZE`.
        size: usize,
        /// The server closes behind it.
        close: bool,
    },
    /// Stamped blocks from the server for so many milliseconds.
    Down(u64),
    /// Stamped blocks from the client until it half-closes.
    Up,
}

/// A request, padded by a header to `MESSAGE` bytes.
pub fn encode(request: Request) -> Vec<u8> {
    let line = match request {
        Request::Reply { size: MESSAGE, .. } => "GET / HTTP/1.1".to_owned(),
        Request::Reply { size, .. } => format!("GET /size/{size} HTTP/1.1"),
        Request::Down(milliseconds) => format!("GET /stream/{milliseconds} HTTP/1.1"),
        Request::Up => "PUT /stream HTTP/1.1".to_owned(),
    };
    let close = if matches!(request, Request::Reply { close: true, .. }) { "Connection: close\r\n" } else { "" };
    // the header's name is short, so that the longest request has room
    let mut text = format!("{line}\r\nHost: b\r\n{close}X:");
    while text.len() < MESSAGE - 4 {
        text.push('.');
    }
    text.push_str("\r\n\r\n");
    text.into_bytes()
}

/// The first request in `bytes` and its length; `None` while it is incomplete, `Err` when it is not one of ours.
pub fn decode(bytes: &[u8]) -> Result<Option<(Request, usize)>, ()> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return if bytes.len() < 1024 { Ok(None) } else { Err(()) };
    };
    let head = &bytes[..end];
    let close = || find(head, b"\r\nConnection: close").is_some();
    let request = if head.starts_with(b"GET / ") {
        Request::Reply { size: MESSAGE, close: close() }
    } else if let Some(rest) = head.strip_prefix(b"GET /size/") {
        let size = usize::try_from(number(rest)?).map_err(|_| ())?;
        if !(MESSAGE..=MAX_SIZE).contains(&size) {
            return Err(());
        }
        Request::Reply { size, close: close() }
    } else if let Some(rest) = head.strip_prefix(b"GET /stream/") {
        Request::Down(number(rest)?)
    } else if head.starts_with(b"PUT /stream ") {
        Request::Up
    } else {
        return Err(());
    };
    Ok(Some((request, end + 4)))
}

/// The number before the next blank.
fn number(bytes: &[u8]) -> Result<u64, ()> {
    let digits = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(digits).map_err(|_| ())?.parse().map_err(|_| ())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// What every reply begins with, up to the server's name.
pub fn head(size: usize, close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n{connection}\r\nserver=").into_bytes()
}

/// A whole reply. The first `MESSAGE` bytes of its body name the server, the pattern follows.
pub fn reply(server: SocketAddr, size: usize, close: bool) -> Vec<u8> {
    let mut bytes = head(size, close);
    let end = bytes.len() - b"server=".len() + MESSAGE;
    bytes.extend_from_slice(server.to_string().as_bytes());
    bytes.resize(end - 1, b' ');
    bytes.push(b'\n');
    bytes.extend(pattern::bytes(size - MESSAGE));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_promised_size_and_survive_a_round_trip() {
        let replies = [MESSAGE, 16_384, MAX_SIZE]
            .into_iter()
            .flat_map(|size| [false, true].map(|close| Request::Reply { size, close }));
        for request in replies.chain([Request::Down(1500), Request::Up]) {
            let bytes = encode(request);
            assert_eq!(bytes.len(), MESSAGE, "{request:?}");
            assert_eq!(decode(&bytes), Ok(Some((request, MESSAGE))));
            assert_eq!(decode(&bytes[..MESSAGE - 1]), Ok(None));
        }
    }

    #[test]
    fn what_is_not_one_of_ours_is_refused() {
        for bad in ["BREW /", "GET /size/63", "GET /size/1048577", "GET /size/-1", "GET /stream/x"] {
            assert_eq!(decode(format!("{bad} HTTP/1.1\r\n\r\n").as_bytes()), Err(()), "{bad}");
        }
    }
}
