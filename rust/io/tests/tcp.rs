//! Dialling and the last bytes of a stream, over loopback, where the peer has everything when a call returns.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use spliceway_io::socket;

/// A backend that never waits, and its address.
fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn dial(address: SocketAddr) -> OwnedFd {
    let (fd, connected) = socket::connect_start(address, None, 0).unwrap();
    assert!(connected, "on the same machine it stands at once");
    fd
}

/// A backend that speaks first (SMTP, MySQL) would learn of its client a delayed acknowledgement later: 40 to 200 ms.
#[test]
fn a_backend_that_speaks_first_learns_at_once_that_it_is_connected() {
    let (listener, address) = backend();
    let fd = dial(address);
    socket::acknowledge(&fd);
    assert!(listener.accept().is_ok());
}

/// A request would wait as long, or come without its bytes.
#[test]
fn the_first_bytes_complete_the_handshake() {
    let (listener, address) = backend();
    let fd = dial(address);
    assert_eq!(socket::write(&fd, b"request").unwrap(), 7);
    let (mut accepted, _) = listener.accept().unwrap();
    let mut bytes = [0; 16];
    assert_eq!(accepted.read(&mut bytes).unwrap(), 7);
}

/// Each short connection would cost two packets and two wake-ups more; or its last bytes would stay behind.
#[test]
fn the_last_bytes_and_the_end_travel_together() {
    let (listener, address) = backend();
    let fd = dial(address);
    socket::acknowledge(&fd);
    let (mut accepted, _): (TcpStream, _) = listener.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let mut bytes = [0; 16];
    assert_eq!(socket::write_last(&fd, b"reply").unwrap(), 5);
    assert_eq!(accepted.read(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock, "they wait for the end");
    socket::shutdown_write(&fd).unwrap();
    assert_eq!(accepted.read(&mut bytes).unwrap(), 5);
    assert_eq!(accepted.read(&mut bytes).unwrap(), 0);
}
