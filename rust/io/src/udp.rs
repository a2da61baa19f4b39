//! Datagram sockets, and datagrams in batches. All sockets are non-blocking and close-on-exec.
//!
//! A service has up to three kinds: the *listener* that clients' datagrams come to, an *upstream* socket per session,
//! connected to the backend, and a *reply* socket per address that clients dial, from which the answers leave.

mod control;
mod name;
mod outgoing;
mod receive;
mod send;
mod slots;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};

use crate::option::set_int;
use crate::socket::{ConnectError, allow_any_source, bind_to_any, set_mark};
pub use outgoing::Outgoing;
pub use receive::ReceiveBatch;
pub use send::{SendBatch, Sent, is_own_fault};

/// The largest datagram that IPv4 can carry, in bytes of payload.
pub const LARGEST: usize = 65_507;
/// What the kernel may queue for a listener, which serves all clients, and for a reply socket.
const SHARED_BUFFER: usize = 4 << 20;
/// The same for an upstream socket that proved busy.
const BUSY_BUFFER: usize = 1 << 20;
/// Nobody is served there (RFC 863), and nothing is ever sent to it.
const DISCARD: u16 = 9;

/// How the address that a client dialled is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The socket is bound to it.
    Bound,
    /// The socket is bound to all addresses of this machine: each datagram tells.
    AnyLocal,
    /// The datagrams were sent to somebody else and diverted here: each one tells.
    Diverted,
}

/// Whether `fd` is a datagram socket.
///
/// # Errors
/// `ENOTSOCK` when it is no socket.
pub fn is_datagram(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(sockopt::socket_type(fd)? == SocketType::DGRAM)
}

/// Prepare a bound datagram socket that was opened elsewhere, and tell its address. `diverted`: see
/// [`Arrival::Diverted`].
///
/// # Errors
/// `EOPNOTSUPP` when `fd` is no UDP socket, `EINVAL` when it is not bound, what the kernel says of its options.
pub fn prepare_listener(fd: impl AsFd, diverted: bool) -> Result<(SocketAddr, Arrival), Errno> {
    let fd = fd.as_fd();
    let address = SocketAddr::try_from(getsockname(fd)?).map_err(|_| Errno::OPNOTSUPP)?;
    if !is_datagram(fd)? {
        return Err(Errno::OPNOTSUPP);
    }
    if address.port() == 0 {
        return Err(Errno::INVAL);
    }
    rustix::io::ioctl_fionbio(fd, true)?;
    if sockopt::set_socket_recv_buffer_size_force(fd, SHARED_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(fd, SHARED_BUFFER); // without privilege: what the host allows
    }
    let _ = sockopt::set_socket_send_buffer_size(fd, SHARED_BUFFER);
    join_trains(fd);
    let arrival = match diverted {
        true => Arrival::Diverted,
        false if address.ip().is_unspecified() => Arrival::AnyLocal,
        false => Arrival::Bound,
    };
    let (v4, v6) = match arrival {
        Arrival::Bound => return Ok((address, arrival)),
        Arrival::AnyLocal => (libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO),
        Arrival::Diverted => (libc::IP_RECVORIGDSTADDR, libc::IPV6_RECVORIGDSTADDR),
    };
    match address {
        SocketAddr::V4(_) => set_int(fd, libc::SOL_IP, v4, 1)?,
        SocketAddr::V6(_) => set_int(fd, libc::SOL_IPV6, v6, 1)?,
    }
    Ok((address, arrival))
}

/// Let the kernel hand over datagrams of one sender joined, as they came from the network or from a sender that joined
/// them. A kernel that cannot gives them one by one.
pub fn join_trains(fd: impl AsFd) {
    let _ = set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
}

/// A socket has much to receive: more datagrams may wait.
pub fn expect_many(fd: impl AsFd) {
    let fd = fd.as_fd();
    if sockopt::set_socket_recv_buffer_size_force(fd, BUSY_BUFFER).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(fd, BUSY_BUFFER);
    }
}

/// A socket connected to `backend`, whose source is the address `from` (any address, with a port that the kernel
/// chooses) or this machine's own. `mark` 0 is none.
///
/// # Errors
/// `EMFILE` and `EADDRNOTAVAIL` at a limit, `ENETUNREACH` and the like when there is no route; or this process may not do
/// what is asked.
pub fn open_upstream(backend: SocketAddr, from: Option<IpAddr>, mark: u32) -> Result<OwnedFd, ConnectError> {
    let fd = open(backend, mark)?;
    // An unreachable host is told as well, not only a closed port.
    match backend {
        SocketAddr::V4(_) => set_int(&fd, libc::SOL_IP, libc::IP_RECVERR, 1)?,
        SocketAddr::V6(_) => set_int(&fd, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?,
    }
    join_trains(&fd); // from the first one on: taken apart, a few would fill the socket's buffer
    if let Some(from) = from {
        bind_to_any(&fd, from)?;
    }
    // With no local port left, UDP says "try again" where TCP names the shortage.
    connect(&fd, &backend).map_err(|errno| if errno == Errno::AGAIN { Errno::ADDRNOTAVAIL } else { errno })?;
    Ok(fd)
}

/// A socket from which datagrams leave with the source `address`, whoever owns it. It never receives any.
///
/// # Errors
/// `EADDRINUSE` when a socket of this machine has the address for itself, `EMFILE`; or this process may not do that.
pub fn open_reply(address: SocketAddr, mark: u32) -> Result<OwnedFd, ConnectError> {
    let fd = open(address, mark)?;
    allow_any_source(&fd, address.ip())?;
    sockopt::set_socket_reuseaddr(&fd, true)?; // every worker has its own
    if sockopt::set_socket_send_buffer_size_force(&fd, SHARED_BUFFER).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(&fd, SHARED_BUFFER);
    }
    bind(&fd, &address)?;
    // Clients' datagrams to `address` must not end here but in the listener. A connected socket gets its peer's only,
    // and sends to others all the same.
    let nobody: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    connect(&fd, &SocketAddr::new(nobody, DISCARD))?;
    Ok(fd)
}

/// The error that waits on a socket, taken away.
///
/// A datagram that was too large for the path leaves a report behind that would keep the socket in error; such reports
/// are thrown away, since the kernel has learnt from them.
#[must_use]
pub fn take_error(fd: impl AsFd) -> Option<Errno> {
    let fd = fd.as_fd();
    let error = match sockopt::socket_error(fd) {
        Ok(Ok(())) => None,
        Ok(Err(errno)) | Err(errno) => Some(errno),
    };
    receive::discard_reports(fd);
    error
}

fn open(peer: SocketAddr, mark: u32) -> Result<OwnedFd, ConnectError> {
    let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    set_mark(&fd, mark)?;
    Ok(fd)
}
