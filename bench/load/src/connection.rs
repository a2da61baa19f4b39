//! One connection of a client: dialled without waiting, driven by edge-triggered epoll.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::http::{self, Request};
use crate::reply::{Expected, Progress};

/// What epoll is asked to tell of a connection.
pub const INTEREST: EventFlags = EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// A request without an answer for this long is an error.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// The one request that a client makes again and again, and the reply to it.
pub struct Exchange {
    request: Vec<u8>,
    expected: Expected,
    close: bool,
    buffer: Vec<u8>,
}

impl Exchange {
    /// Ask for `size` bytes; the server closes behind them, or not.
    pub fn new(size: usize, close: bool) -> Self {
        let request = http::encode(Request::Reply { size, close });
        Self { request, expected: Expected::new(size, close), close, buffer: vec![0; CHUNK] }
    }

    /// Payload of a reply, in bytes.
    pub fn size(&self) -> u64 {
        self.expected.size() as u64
    }
}

/// A client's connection with one request at a time.
pub struct Connection {
    stream: TcpStream,
    /// When it was dialled, or the request before it was answered.
    pub begun: Instant,
    /// The request has left.
    sent: bool,
    /// When the reply was whole.
    answered: Option<Instant>,
    progress: Progress,
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
        let stream = socket(target, SocketFlags::NONBLOCK)?;
        let begun = Instant::now();
        let outcome = match rustix::net::connect(&stream, &target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(()),
            Err(error) => Err(kind_of(&error.into(), false)),
        };
        Ok((Self { stream, begun, sent: false, answered: None, progress: Progress::new() }, outcome))
    }

    /// Dial and wait until the connection stands, at most `PATIENCE`, which is also the limit of everything that follows.
    pub fn open_waiting(target: SocketAddr) -> io::Result<Result<Self, &'static str>> {
        let stream = socket(target, SocketFlags::empty())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // of the dial too
        stream.set_write_timeout(Some(PATIENCE))?;
        let begun = Instant::now();
        Ok(match rustix::net::connect(&stream, &target) {
            Ok(()) => Ok(Self { stream, begun, sent: false, answered: None, progress: Progress::new() }),
            Err(rustix::io::Errno::INPROGRESS) => Err("timeout"),
            Err(error) => Err(kind_of(&error.into(), false)),
        })
    }

    /// The socket, for epoll.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// When the reply was whole; when the exchange began, as long as it is not.
    pub fn answered(&self) -> Instant {
        self.answered.unwrap_or(self.begun)
    }

    /// The server that gave the reply.
    pub fn server<'a>(&'a self, exchange: &Exchange) -> &'a [u8] {
        exchange.expected.server(&self.progress)
    }

    /// From the dial, or the sending of the request on a kept connection, to the whole reply.
    pub fn latency(&self) -> Duration {
        self.answered().saturating_duration_since(self.begun)
    }

    /// Do what the socket allows now: send the request once connected, read the reply, and see the server close.
    pub fn advance(&mut self, exchange: &mut Exchange) -> Step {
        if !self.sent {
            return self.send(exchange);
        }
        loop {
            let length = match self.stream.read(&mut exchange.buffer) {
                Ok(0) if self.answered.is_some() => return Step::Done,
                Ok(0) => return Step::Failed("closed-without-reply"),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                Err(error) => return Step::Failed(kind_of(&error, true)),
            };
            match exchange.expected.take(&mut self.progress, &exchange.buffer[..length]) {
                Ok(false) => {}
                Ok(true) => {
                    self.answered = Some(Instant::now());
                    if !exchange.close {
                        return Step::Done;
                    }
                }
                Err(()) => return Step::Failed("bad-reply"),
            }
        }
    }

    /// The same on a waiting connection: the whole exchange.
    pub fn exchange(&mut self, exchange: &mut Exchange) -> Result<(), &'static str> {
        let mut step = self.again(exchange);
        if matches!(step, Step::Wait) && self.sent {
            step = self.advance(exchange);
        }
        match step {
            Step::Done => Ok(()),
            Step::Failed(kind) => Err(kind),
            Step::Wait => Err("timeout"),
        }
    }

    /// Send the next request on a kept connection.
    pub fn again(&mut self, exchange: &Exchange) -> Step {
        self.answered = None;
        self.progress.reset();
        self.send(exchange)
    }

    /// Is an idle connection open, and has nothing come that was not asked for?
    pub fn is_quiet(&self) -> bool {
        let quiet = rustix::net::recv(&self.stream, &mut [0_u8; 1][..], PEEK);
        matches!(quiet, Err(rustix::io::Errno::AGAIN))
    }

    /// A request of 64 bytes always fits an idle socket's buffer, so a partial write is an error.
    fn send(&mut self, exchange: &Exchange) -> Step {
        match self.stream.write(&exchange.request) {
            Ok(length) if length == exchange.request.len() => {
                self.sent = true;
                Step::Wait
            }
            Ok(_) => Step::Failed("partial-write"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Wait,
            Err(error) => Step::Failed(kind_of(&error, self.sent)),
        }
    }
}

const PEEK: rustix::net::RecvFlags = rustix::net::RecvFlags::PEEK.union(rustix::net::RecvFlags::DONTWAIT);

/// No `TCP_NODELAY`: with one small request under way Nagle's algorithm never waits, and each system call counts.
fn socket(target: SocketAddr, flags: SocketFlags) -> io::Result<TcpStream> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = flags | SocketFlags::CLOEXEC;
    Ok(TcpStream::from(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?))
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
