//! The few fixed messages that clients and backends exchange: requests of 64 bytes, bodies of 64 bytes.

use std::net::SocketAddr;

/// Size of a request, and of a reply's body, in bytes.
pub const MESSAGE: usize = 64;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One small reply; the connection stays open.
    Keep,
    /// One small reply, then the server closes.
    Close,
    /// Stamped blocks from the server for so many milliseconds.
    Down(u64),
    /// Stamped blocks from the client until it half-closes.
    Up,
}

/// A request, padded by a header to `MESSAGE` bytes.
pub fn encode(request: Request) -> Vec<u8> {
    let (line, close) = match request {
        Request::Keep => ("GET / HTTP/1.1".to_owned(), ""),
        Request::Close => ("GET / HTTP/1.1".to_owned(), "Connection: close\r\n"),
        Request::Down(milliseconds) => (format!("GET /stream/{milliseconds} HTTP/1.1"), ""),
        Request::Up => ("PUT /stream HTTP/1.1".to_owned(), ""),
    };
    let mut text = format!("{line}\r\nHost: b\r\n{close}X-Pad: ");
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
    let request = if head.starts_with(b"GET / ") {
        if find(head, b"\r\nConnection: close").is_some() { Request::Close } else { Request::Keep }
    } else if let Some(rest) = head.strip_prefix(b"GET /stream/") {
        let digits = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
        let text = std::str::from_utf8(digits).map_err(|_| ())?;
        Request::Down(text.parse().map_err(|_| ())?)
    } else if head.starts_with(b"PUT /stream ") {
        Request::Up
    } else {
        return Err(());
    };
    Ok(Some((request, end + 4)))
}

/// A whole reply with a body of `MESSAGE` bytes that names the server.
pub fn reply(server: SocketAddr, close: bool) -> Vec<u8> {
    let connection = if close { "Connection: close\r\n" } else { "" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MESSAGE}\r\n{connection}\r\n");
    let mut body = format!("server={server}");
    while body.len() < MESSAGE - 1 {
        body.push(' ');
    }
    body.push('\n');
    (head + &body).into_bytes()
}

/// The name in a complete reply; `None` while it is incomplete, `Err` when it is anything but one valid reply.
pub fn server_name(bytes: &[u8]) -> Result<Option<&[u8]>, ()> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        return if bytes.len() < 512 { Ok(None) } else { Err(()) };
    };
    if !bytes.starts_with(b"HTTP/1.1 200 ") {
        return Err(());
    }
    let body = &bytes[end + 4..];
    if body.len() < MESSAGE {
        return Ok(None);
    }
    if body.len() > MESSAGE || body.last() != Some(&b'\n') {
        return Err(());
    }
    let name = body.strip_prefix(b"server=").ok_or(())?;
    Ok(Some(name.trim_ascii_end()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_promised_size_and_survive_a_round_trip() {
        for request in [Request::Keep, Request::Close, Request::Down(1500), Request::Up] {
            let bytes = encode(request);
            assert_eq!(bytes.len(), MESSAGE);
            assert_eq!(decode(&bytes), Ok(Some((request, MESSAGE))));
            assert_eq!(decode(&bytes[..MESSAGE - 1]), Ok(None));
        }
        assert_eq!(decode(b"BREW / HTTP/1.1\r\n\r\n"), Err(()));
    }

    #[test]
    fn a_reply_is_valid_only_when_it_is_whole_and_nothing_more() {
        let bytes = reply(SocketAddr::from(([127, 0, 0, 1], 80)), false);
        assert_eq!(server_name(&bytes), Ok(Some(&b"127.0.0.1:80"[..])));
        assert_eq!(server_name(&bytes[..bytes.len() - 1]), Ok(None));
        assert_eq!(server_name(&[&bytes[..], b"x"].concat()), Err(()));
        assert_eq!(server_name(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), Err(()));
    }
}
