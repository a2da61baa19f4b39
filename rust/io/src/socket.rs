//! Stream sockets: accept, connect, read, write, half-close, reset. All are non-blocking and close-on-exec.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind, connect,
    connect_unspec, getpeername, getsockname, recv, send, shutdown, socket_with, sockopt,
};

use crate::{fork, option};

/// So often unread bytes are discarded at most before a socket is closed: who sends on is reset.
const UNREAD_CALLS: usize = 16;

/// Prepare a listening socket that was opened elsewhere. Connections accepted from it inherit the options.
///
/// `TCP_NODELAY`, because a relay that waits for more bytes only adds latency; `SO_KEEPALIVE`, because a peer that vanished
/// without a word must not hold a flow for ever (the kernel's default asks after two hours, as conntrack does in days). No
/// `SO_LINGER`, because closing a flow would block the worker, or reset a client that is owed bytes.
///
/// # Errors
/// `ENOTSOCK` or `EOPNOTSUPP` when `fd` is no TCP socket, `EINVAL` when it does not listen.
pub fn prepare_listener(fd: impl AsFd) -> Result<(), Errno> {
    let fd = fd.as_fd();
    if !sockopt::socket_acceptconn(fd)? {
        return Err(Errno::INVAL);
    }
    rustix::io::ioctl_fionbio(fd, true)?;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_linger(fd, None)?;
    sockopt::set_socket_keepalive(fd, true)
}

/// Take one connection; with it comes the client's address.
///
/// # Errors
/// `EAGAIN` when none waits, `EMFILE`, `ENFILE`, `ENOBUFS` or `ENOMEM` at a limit, and the connection's own early death
/// (`ECONNABORTED` and the like).
pub fn accept(listener: impl AsFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let (fd, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    match peer.and_then(|p| SocketAddr::try_from(p).ok()) {
        Some(peer) => Ok((fd, peer)),
        None => Err(Errno::CONNABORTED), // reset before we looked: it has no name any more
    }
}

/// The address that a connection was made to, as the client named it: with a transparent listener it may be any.
///
/// # Errors
/// None that a connection which was just accepted can have.
pub fn local_address(fd: impl AsFd) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(getsockname(fd)?)
}

/// Why connecting failed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// This process may not mark packets, or not use addresses of others: it lacks `CAP_NET_ADMIN`.
    NotPermitted,
    /// The kernel's answer to socket(2), bind(2) or connect(2).
    Failed(Errno),
}

impl From<Errno> for ConnectError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// Begin to connect to `address`. The flag tells whether the connection stands already, as it does on the same machine.
///
/// The connection comes from `from`, which may be anybody's address of the same family (None: from this machine's own),
/// and its packets carry `mark` (0: none).
///
/// # Errors
/// An immediate failure: `ECONNREFUSED`, `ENETUNREACH`, `EMFILE`, `EADDRNOTAVAIL` (no local port left) and the like; or
/// this process may not do what is asked.
pub fn connect_start(address: SocketAddr, from: Option<IpAddr>, mark: u32) -> Result<(OwnedFd, bool), ConnectError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    // The handshake's last packet waits for the first bytes, which mostly are there: see `acknowledge`.
    sockopt::set_tcp_quickack(&fd, false)?;
    set_mark(&fd, mark)?;
    if let Some(ip) = from {
        // The port is chosen with the peer: it must be free for that one only. An option of both families.
        option::set_int(&fd, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind_to_any(&fd, ip)?;
    }
    match connect(&fd, &address) {
        Ok(()) => Ok((fd, true)),
        // The handshake with a socket on the same machine is over before connect(2) returns, although it says that it is not.
        Err(Errno::INPROGRESS) => {
            let connected = getpeername(&fd).is_ok();
            // A dead backend's port on this machine may be the very port that we were given: that is nobody.
            let may_be_own = connected && from.is_none_or(|ip| ip == address.ip());
            if may_be_own && getsockname(&fd).ok().and_then(|own| SocketAddr::try_from(own).ok()) == Some(address) {
                reset(fd);
                return Err(Errno::CONNREFUSED.into());
            }
            Ok((fd, connected))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Let a backend know that its connection stands. [`connect_start`] leaves that to the first bytes; when there are none
/// yet, the backend may be the one who speaks first.
pub fn acknowledge(fd: impl AsFd) {
    let _ = sockopt::set_tcp_quickack(fd, true); // fails only on a connection that has failed: its readiness tells
}

/// Packets of `fd` carry `mark`; 0 leaves them alone.
pub(crate) fn set_mark(fd: &OwnedFd, mark: u32) -> Result<(), ConnectError> {
    if mark == 0 {
        return Ok(());
    }
    permitted(option::set_int(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed()))
}

/// Let `fd` come from `ip`, whoever's it is, with a port that the kernel chooses.
pub(crate) fn bind_to_any(fd: &OwnedFd, ip: IpAddr) -> Result<(), ConnectError> {
    allow_any_source(fd, ip)?;
    // Whatever is wrong with the address, the peer is not the cause.
    Ok(bind(fd, &SocketAddr::new(ip, 0)).map_err(|_| Errno::ADDRNOTAVAIL)?)
}

/// Let `fd` have source addresses of others, of the family of `ip`.
pub(crate) fn allow_any_source(fd: &OwnedFd, ip: IpAddr) -> Result<(), ConnectError> {
    permitted(match ip {
        IpAddr::V4(_) => option::set_int(fd, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
        IpAddr::V6(_) => option::set_int(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
    })
}

fn permitted(outcome: Result<(), Errno>) -> Result<(), ConnectError> {
    outcome.map_err(|errno| if errno == Errno::PERM { ConnectError::NotPermitted } else { errno.into() })
}

/// The error that a finished connect, or a reset, left on the socket; it is cleared by asking.
#[must_use]
pub fn take_error(fd: impl AsFd) -> Option<Errno> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => None,
        Ok(Err(errno)) | Err(errno) => Some(errno),
    }
}

/// Read up to `buffer.len()` bytes; 0 is the end of the stream.
///
/// # Errors
/// `EAGAIN` when nothing is there, else the connection's failure.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match recv(fd.as_fd(), &mut *buffer, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            Ok((n, _)) => return Ok(n),
            Err(errno) => return Err(errno),
        }
    }
}

/// Write a part of `bytes`.
///
/// # Errors
/// `EAGAIN` when there is no room, else the connection's failure.
pub fn write(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    write_with(fd, bytes, SendFlags::NOSIGNAL)
}

/// [`write`] the last bytes: [`shutdown_write`] or [`close`] comes next, and its end travels in the same packet.
///
/// # Errors
/// As [`write`].
pub fn write_last(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    write_with(fd, bytes, SendFlags::NOSIGNAL | SendFlags::MORE)
}

fn write_with(fd: impl AsFd, bytes: &[u8], flags: SendFlags) -> Result<usize, Errno> {
    loop {
        match send(fd.as_fd(), bytes, flags) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Tell the peer that no more bytes will come; reading goes on.
///
/// # Errors
/// `ENOTCONN` when the connection has failed meanwhile.
pub fn shutdown_write(fd: impl AsFd) -> Result<(), Errno> {
    shutdown(fd, Shutdown::Write)
}

/// Close in order. After a fork the peer must be told before, since a child may hold the socket open.
pub fn close(fd: OwnedFd) {
    if fork::noticed() {
        let _ = shutdown(&fd, Shutdown::Both);
    }
    drop(fd);
}

/// [`close`], although there may be bytes that nobody takes: unread ones would make it a reset, which overtakes what was
/// written. A peer that goes on sending is reset all the same, as by any program that has closed. `scratch` is overwritten.
pub fn close_unread(fd: OwnedFd, scratch: &mut [u8]) {
    let _ = shutdown_write(&fd);
    for _ in 0..UNREAD_CALLS {
        // TCP discards with this flag, and copies nothing (tcp(7)).
        match recv(&fd, &mut *scratch, RecvFlags::TRUNC) {
            Ok((0, _)) | Err(_) => break,
            Ok(_) => {}
        }
    }
    close(fd);
}

/// Close with RST: the peer sees an error, not an end of stream. Unsent bytes are thrown away.
pub fn reset(fd: OwnedFd) {
    let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
    if fork::noticed() {
        let _ = connect_unspec(&fd);
    }
    drop(fd);
}

/// Close a listening socket, also if a child holds a copy of it.
pub fn close_listener(fd: OwnedFd) {
    let _ = shutdown(&fd, Shutdown::Both);
    drop(fd);
}
