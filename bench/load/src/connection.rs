//! One connection of a client: dialled without waiting, driven by edge-triggered epoll.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::http;

/// What epoll is asked to tell of a connection.
pub const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// A client's connection with one request at a time.
pub struct Connection {
    /// Never blocks.
    pub stream: TcpStream,
    /// When it was dialled, or the request before it was answered.
    pub begun: Instant,
    /// The request has left.
    sent: bool,
    /// The reply is whole.
    pub answered: bool,
    /// Bytes of the reply so far.
    pub held: Vec<u8>,
}

/// What became of a connection.
pub enum Step {
    /// Nothing yet.
    Wait,
    /// A whole and valid reply, and the server's close where it is due.
    Done,
    /// The kind of error.
    Failed(&'static str),
}

impl Connection {
    /// Dial without waiting. A dial that fails at once gives the kind of error beside the connection.
    pub fn open(target: SocketAddr) -> io::Result<(Self, Result<(), &'static str>)> {
        let begun = Instant::now();
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let stream = TcpStream::from(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?);
        stream.set_nodelay(true)?;
        let outcome = match rustix::net::connect(&stream, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
            Err(error) => Err(kind_of(&error.into(), false)),
        };
        Ok((Self { stream, begun, sent: false, answered: false, held: Vec::with_capacity(256) }, outcome))
    }

    /// Do what the socket allows now: send the request once connected, read the reply, and see the server close.
    pub fn advance(&mut self, request: &[u8], keep: bool) -> Step {
        if !self.sent {
            return self.send(request);
        }
        let mut chunk = [0_u8; 512];
        loop {
            let length = match self.stream.read(&mut chunk) {
                Ok(0) if self.answered => return Step::Done,
                Ok(0) => return Step::Failed("closed-without-reply"),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                Err(error) => return Step::Failed(kind_of(&error, true)),
            };
            self.held.extend_from_slice(&chunk[..length]);
            match http::server_name(&self.held) {
                Ok(None) => {}
                Ok(Some(_)) if keep => return Step::Done,
                Ok(Some(_)) => self.answered = true,
                Err(()) => return Step::Failed("bad-reply"),
            }
        }
    }

    /// A request of 64 bytes always fits an idle socket's buffer, so a partial write is an error.
    pub fn send(&mut self, request: &[u8]) -> Step {
        match self.stream.write(request) {
            Ok(length) if length == request.len() => {
                self.sent = true;
                Step::Wait
            }
            Ok(_) => Step::Failed("partial-write"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(error) => Step::Failed(kind_of(&error, self.sent)),
        }
    }
}

fn kind_of(error: &io::Error, connected: bool) -> &'static str {
    match (error.kind(), connected) {
        (io::ErrorKind::ConnectionRefused, _) => "refused",
        (io::ErrorKind::ConnectionReset, true) => "reset",
        (io::ErrorKind::ConnectionReset, false) => "reset-while-connecting",
        (io::ErrorKind::TimedOut, _) => "kernel-timeout",
        (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => "unreachable",
        (io::ErrorKind::AddrNotAvailable, _) => "out-of-ports",
        (io::ErrorKind::BrokenPipe, _) => "broken-pipe",
        _ => "other",
    }
}
