//! The messages of UDP: 64 bytes each way, a token in the request that comes back beside the server's name.

use std::net::SocketAddr;

/// Size of a request and of its reply.
pub const SIZE: usize = 64;

const REQUEST: &[u8; 8] = b"spl-udp?";
const REPLY: &[u8; 8] = b"spl-udp!";
const BODY: usize = 16;

/// A request that no other one of this client equals.
pub fn request(token: u64) -> [u8; SIZE] {
    let mut bytes = [b'.'; SIZE];
    bytes[..8].copy_from_slice(REQUEST);
    bytes[8..BODY].copy_from_slice(&token.to_le_bytes());
    bytes
}

/// What `server` answers to anything, without a token.
pub fn template(server: SocketAddr) -> [u8; SIZE] {
    let mut bytes = [b' '; SIZE];
    bytes[..8].copy_from_slice(REPLY);
    for (place, letter) in bytes[BODY..].iter_mut().zip(server.to_string().bytes()) {
        *place = letter;
    }
    bytes
}

/// Make `reply` (a `template`) the answer to `bytes`; false when that is not one of our requests, whole and unchanged.
pub fn answer(bytes: &[u8], reply: &mut [u8; SIZE]) -> bool {
    let sound = bytes.len() == SIZE && bytes.starts_with(REQUEST) && bytes[BODY..].iter().all(|byte| *byte == b'.');
    if sound {
        reply[8..BODY].copy_from_slice(&bytes[8..BODY]);
    }
    sound
}

/// Token and server of a reply; `None` when it is anything else.
pub fn decode(bytes: &[u8]) -> Option<(u64, &[u8])> {
    if bytes.len() != SIZE || !bytes.starts_with(REPLY) {
        return None;
    }
    let token = u64::from_le_bytes(bytes[8..BODY].try_into().ok()?);
    Some((token, bytes[BODY..].trim_ascii_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_carries_the_token_and_the_server() {
        let mut reply = template(SocketAddr::from(([127, 0, 0, 1], 53)));
        assert!(answer(&request(7 << 40), &mut reply));
        assert_eq!(decode(&reply), Some((7 << 40, &b"127.0.0.1:53"[..])));
        assert_eq!(decode(&reply[..SIZE - 1]), None);
        assert_eq!(decode(&request(7)), None);
    }

    #[test]
    fn what_was_changed_on_the_way_is_not_answered() {
        let mut reply = template(SocketAddr::from(([127, 0, 0, 1], 53)));
        let mut torn = request(1);
        torn[40] = 0;
        assert!(!answer(&torn, &mut reply));
        assert!(!answer(&request(1)[..SIZE - 1], &mut reply));
        assert!(!answer(&[&request(1)[..], b"."].concat(), &mut reply));
    }
}
