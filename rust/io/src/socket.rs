//! Stream sockets: accept, connect, read, write, half-close, reset. All are non-blocking and close-on-exec.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, connect, connect_unspec,
    getpeername, getsockname, recv, send, shutdown, socket_with, sockopt,
};

use crate::fork;

/// Prepare a listening socket that was opened elsewhere. Connections accepted from it inherit the options.
///
/// `TCP_NODELAY`, because a relay that waits for more bytes only adds latency; `SO_KEEPALIVE`, because a peer that vanished
/// without a word must not hold a flow for ever (the kernel's default asks after two hours, as conntrack does in days).
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

/// Begin to connect to `address`. The flag tells whether the connection stands already, as it does on the same machine.
///
/// # Errors
/// An immediate failure: `ECONNREFUSED`, `ENETUNREACH`, `EMFILE`, `EADDRNOTAVAIL` (no local port left) and the like.
pub fn connect_start(address: SocketAddr) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    match connect(&fd, &address) {
        Ok(()) => Ok((fd, true)),
        // The handshake with a socket on the same machine is over before connect(2) returns, although it says that it is not.
        Err(Errno::INPROGRESS) => {
            let connected = getpeername(&fd).is_ok();
            // A dead backend's port on this machine may be the very port that we were given: that is nobody.
            if connected && getsockname(&fd).ok().and_then(|own| SocketAddr::try_from(own).ok()) == Some(address) {
                reset(fd);
                return Err(Errno::CONNREFUSED);
            }
            Ok((fd, connected))
        }
        Err(errno) => Err(errno),
    }
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
    loop {
        match send(fd.as_fd(), bytes, SendFlags::NOSIGNAL) {
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
