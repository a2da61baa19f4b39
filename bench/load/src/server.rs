//! The backend: one epoll thread answers small requests and datagrams; each bulk stream gets a thread of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::bulk;
use crate::datagram;
use crate::http::{self, Request};

/// A bulk client that stops reading or writing for this long has died.
const STALL: Duration = Duration::from_secs(10);

struct Connection {
    stream: TcpStream,
    server: usize,
    held: Vec<u8>,
}

enum Fate {
    Stay,
    Close,
    /// The request asks for a bulk stream; bytes behind the request are in `held`.
    Stream(Request),
}

struct Server {
    epoll: OwnedFd,
    listeners: Vec<TcpListener>,
    sockets: Vec<Answering>,
    /// Replies by listener, without and with `Connection: close`.
    replies: Vec<[Vec<u8>; 2]>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

/// A socket for datagrams and what it answers.
struct Answering {
    socket: UdpSocket,
    reply: [u8; datagram::SIZE],
}

/// Bytes of datagrams that may wait: the clients' windows are smaller, so nothing is lost here.
const UDP_BUFFER: usize = 4 << 20;
/// Datagrams answered in a row before others have their turn.
const UDP_TURN: usize = 64;

/// Listen with room for bursts of new connections; std's backlog is too small for that.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 4096)?;
    Ok(TcpListener::from(socket))
}

/// Open a socket for datagrams. Without the right to a large buffer it has what the machine allows.
fn open_udp(address: SocketAddr) -> io::Result<Answering> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, UDP_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, UDP_BUFFER))?;
    Ok(Answering { socket, reply: datagram::template(address) })
}

/// Serve TCP and UDP until killed; no UDP on a wildcard address, which could not name the address that was asked. A line on standard output tells when all addresses accept.
pub fn serve(addresses: &[SocketAddr]) -> io::Result<()> {
    let mut server = Server {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        listeners: Vec::new(),
        sockets: Vec::new(),
        replies: Vec::new(),
        connections: Vec::new(),
        free: Vec::new(),
    };
    for address in addresses {
        let listener = listen(*address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let token = server.listeners.len() as u64;
        epoll::add(&server.epoll, &listener, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        server.replies.push([http::reply(*address, false), http::reply(*address, true)]);
        server.listeners.push(listener);
    }
    for address in addresses.iter().filter(|address| !address.ip().is_unspecified()) {
        let answering =
            open_udp(*address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
        let token = (server.listeners.len() + server.sockets.len()) as u64;
        epoll::add(&server.epoll, &answering.socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        server.sockets.push(answering);
    }
    writeln!(io::stdout(), "ready")?;
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let token = event.data.u64() as usize;
            match token.checked_sub(server.listeners.len()) {
                None => server.accept(token)?,
                Some(index) => match index.checked_sub(server.sockets.len()) {
                    None => server.sockets[index].answer(),
                    Some(index) => server.ready(index),
                },
            }
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
            stream.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = epoll::EventData::new_u64((self.listeners.len() + self.sockets.len() + index) as u64);
            epoll::add(&self.epoll, &stream, token, epoll::EventFlags::IN)?;
            self.connections[index] = Some(Connection { stream, server: listener, held: Vec::new() });
        }
    }

    fn ready(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else { return };
        let fate = connection.answer(&self.replies);
        if matches!(fate, Fate::Stay) {
            return;
        }
        self.free.push(index);
        let Some(connection) = self.connections[index].take() else { return };
        if let Fate::Stream(request) = fate
            && epoll::delete(&self.epoll, &connection.stream).is_ok()
        {
            std::thread::spawn(move || connection.stream_bulk(request));
        }
    }
}

impl Answering {
    /// Answer what waits. Errors are those of clients that have gone.
    fn answer(&mut self) {
        let mut bytes = [0; datagram::SIZE + 1];
        for _ in 0..UDP_TURN {
            let (length, client) = match self.socket.recv_from(&mut bytes) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            if datagram::answer(&bytes[..length], &mut self.reply) {
                let _sent = self.socket.send_to(&self.reply, client);
            }
        }
    }
}

impl Connection {
    /// Read once and answer every whole request. A client that breaks the rules is cut; it will count that.
    fn answer(&mut self, replies: &[[Vec<u8>; 2]]) -> Fate {
        let mut chunk = [0_u8; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Fate::Close,
            Ok(length) => self.held.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Stay,
            Err(_) => return Fate::Close,
        }
        loop {
            let (request, length) = match http::decode(&self.held) {
                Ok(Some(found)) => found,
                Ok(None) => return Fate::Stay,
                Err(()) => return Fate::Close,
            };
            self.held.drain(..length);
            let close = match request {
                Request::Keep => false,
                Request::Close => true,
                Request::Down(_) | Request::Up => return Fate::Stream(request),
            };
            // 100 bytes always fit the send buffer of a client that waits for each reply
            if self.stream.write_all(&replies[self.server][usize::from(close)]).is_err() || close {
                return Fate::Close;
            }
        }
    }

    /// Run one bulk stream. Its errors are the client's to see and count.
    fn stream_bulk(mut self, request: Request) {
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
                let verdict = bulk::receive(&mut self.stream, &self.held, |_| {});
                let _told = bulk::write_verdict(&mut self.stream, &verdict);
            }
        }
    }
}
