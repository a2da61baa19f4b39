//! The backend: one epoll thread answers small requests and datagrams; each bulk stream gets a thread of its own.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signalfd::SignalFd;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::answering::Answering;
use crate::batch::Batch;
use crate::bulk;
use crate::drain;
use crate::http::{self, Request};
use crate::poll;

/// Token of SIGTERM.
const LEAVE: u64 = u64::MAX;

/// A bulk client that stops reading or writing for this long has died.
const STALL: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    server: usize,
    held: Vec<u8>,
    unsent: Option<Unsent>,
}

/// What did not fit the socket's buffer.
struct Unsent {
    reply: Rc<[u8]>,
    from: usize,
    close: bool,
}

enum Fate {
    /// There is nothing to do before the socket can be read.
    Read,
    /// There is nothing to do before it can be written.
    Write,
    Close,
    /// The request asks for a bulk stream; bytes behind the request are in `held`.
    Stream(Request),
}

struct Server {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    sockets: Vec<Answering>,
    batch: Batch,
    replies: Replies,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

/// Listen with room for bursts of new connections; std's backlog is too small for that.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // accepted sockets inherit it
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 4096)?;
    Ok(TcpListener::from(socket))
}

/// Serve TCP and UDP until killed; no UDP on a wildcard address, which could not name the address that was asked. A line
/// on standard output tells when all addresses accept.
///
/// With `drain` SIGTERM makes it stop accepting, answer each connection that it has once more, and end after the last one;
/// bulk streams end then as well.
pub fn serve(addresses: &[SocketAddr], drain: bool) -> io::Result<()> {
    let mut server = Server {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        listeners: Vec::new(),
        sockets: Vec::new(),
        batch: Batch::new(),
        replies: Replies { addresses: addresses.to_vec(), made: HashMap::new(), last: false },
        connections: Vec::new(),
        free: Vec::new(),
    };
    for address in addresses {
        let listener = listen(*address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let token = server.listeners.len() as u64;
        epoll::add(&server.epoll, &listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        server.listeners.push(listener);
    }
    for address in addresses.iter().filter(|address| !address.ip().is_unspecified()) {
        let answering =
            Answering::open(*address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let token = (server.listeners.len() + server.sockets.len()) as u64;
        epoll::add(&server.epoll, answering.socket(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        server.sockets.push(answering);
    }
    let sigterm = if drain { Some(drain::on_sigterm()?) } else { None };
    if let Some(sigterm) = &sigterm {
        epoll::add(&server.epoll, sigterm, epoll::EventData::new_u64(LEAVE), epoll::EventFlags::IN)?;
    }
    writeln!(io::stdout(), "ready")?;
    let mut events = Vec::with_capacity(256);
    loop {
        poll::wait(&server.epoll, &mut events, None)?;
        for event in &events {
            let token = event.data.u64() as usize;
            if event.data.u64() == LEAVE {
                sigterm.as_ref().map(SignalFd::read_signal).transpose()?;
                server.leave()?;
                continue;
            }
            match token.checked_sub(server.listeners.len()) {
                None => server.accept(token)?,
                Some(index) => match index.checked_sub(server.sockets.len()) {
                    None => server.sockets[index].answer(&mut server.batch),
                    Some(index) => server.ready(index)?,
                },
            }
        }
        if server.replies.last && server.connections.iter().all(Option::is_none) {
            return Ok(());
        }
    }
}

impl Server {
    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let stream = match rustix::net::accept_with(&self.listeners[listener], flags) {
                Ok(socket) => TcpStream::from(socket),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = epoll::EventData::new_u64((self.listeners.len() + self.sockets.len() + index) as u64);
            epoll::add(&self.epoll, &stream, token, epoll::EventFlags::IN)?;
            self.connections[index] = Some(Connection { stream, server: listener, held: Vec::new(), unsent: None });
        }
    }

    /// Take those who have connected, refuse all others, and close each connection behind its next reply.
    fn leave(&mut self) -> io::Result<()> {
        for index in 0..self.listeners.len() {
            self.accept(index)?;
            epoll::delete(&self.epoll, &self.listeners[index])?;
            rustix::net::shutdown(&self.listeners[index], rustix::net::Shutdown::Both)?;
        }
        self.replies.last = true;
        Ok(())
    }

    fn ready(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        let wrote = connection.unsent.is_some();
        let fate = connection.advance(&mut self.replies);
        match fate {
            Fate::Read | Fate::Write => {
                let writes = matches!(fate, Fate::Write);
                if writes != wrote {
                    let interest = if writes { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
                    let token = (self.listeners.len() + self.sockets.len() + index) as u64;
                    epoll::modify(&self.epoll, &connection.stream, epoll::EventData::new_u64(token), interest)?;
                }
            }
            Fate::Close => self.forget(index),
            Fate::Stream(request) => {
                if let Some(connection) = self.connections[index].take()
                    && epoll::delete(&self.epoll, &connection.stream).is_ok()
                {
                    let bulk = Bulk { stream: connection.stream, held: connection.held };
                    std::thread::spawn(move || bulk.run(request));
                }
                self.forget(index);
            }
        }
        Ok(())
    }

    fn forget(&mut self, index: usize) {
        self.connections[index] = None;
        self.free.push(index);
    }
}

/// Replies, each made when it is first asked for.
struct Replies {
    addresses: Vec<SocketAddr>,
    /// By listener, size, and whether the server closes.
    made: HashMap<(usize, usize, bool), Rc<[u8]>>,
    /// The server closes behind any reply, without announcing it.
    last: bool,
}

impl Replies {
    fn get(&mut self, server: usize, size: usize, close: bool) -> Rc<[u8]> {
        let address = self.addresses[server];
        let made = self.made.entry((server, size, close)).or_insert_with(|| http::reply(address, size, close).into());
        Rc::clone(made)
    }
}

impl Connection {
    /// Write what is left over, or read once, and answer every whole request. A client that breaks the rules is cut; it
    /// will count that.
    fn advance(&mut self, replies: &mut Replies) -> Fate {
        if self.unsent.is_some() {
            if let Some(fate) = self.flush() {
                return fate;
            }
        } else {
            let mut chunk = [0_u8; 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Fate::Close,
                Ok(length) => self.held.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Read,
                Err(_) => return Fate::Close,
            }
        }
        loop {
            let (request, length) = match http::decode(&self.held) {
                Ok(Some(found)) => found,
                Ok(None) => return Fate::Read,
                Err(()) => return Fate::Close,
            };
            self.held.drain(..length);
            let Request::Reply { size, close } = request else { return Fate::Stream(request) };
            let reply = replies.get(self.server, size, close);
            self.unsent = Some(Unsent { reply, from: 0, close: close || replies.last });
            if let Some(fate) = self.flush() {
                return fate;
            }
        }
    }

    /// Write the rest of a reply. `None`: it has left, and the connection goes on.
    fn flush(&mut self) -> Option<Fate> {
        let unsent = self.unsent.as_mut()?;
        while unsent.from < unsent.reply.len() {
            match self.stream.write(&unsent.reply[unsent.from..]) {
                Ok(length) => unsent.from += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(Fate::Write),
                Err(_) => return Some(Fate::Close),
            }
        }
        let close = unsent.close;
        self.unsent = None;
        close.then_some(Fate::Close)
    }
}

/// A bulk stream, in a thread of its own.
struct Bulk {
    stream: TcpStream,
    /// What came behind the request.
    held: Vec<u8>,
}

impl Bulk {
    /// Run one bulk stream. Its errors are the client's to see and count.
    fn run(mut self, request: Request) {
        let ready = self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_read_timeout(Some(STALL)).is_ok()
            && self.stream.set_write_timeout(Some(STALL)).is_ok();
        if !ready {
            return;
        }
        match request {
            Request::Down(milliseconds) => {
                let _sent = bulk::send(&mut self.stream, Duration::from_millis(milliseconds));
            }
            _ => {
                let verdict = bulk::receive(&mut self.stream, &self.held, bulk::End::Marked, |_| {});
                let _told = bulk::write_verdict(&mut self.stream, &verdict);
            }
        }
    }
}
