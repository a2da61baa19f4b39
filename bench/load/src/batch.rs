//! UDP sockets that send and receive many datagrams in one call (`UDP_SEGMENT`, `UDP_GRO`).

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{self as nix_socket, ControlMessageOwned, MsgFlags, SockaddrStorage, sockopt as nix_option};
use rustix::net::sockopt;

use crate::train::DATAGRAM;

/// The most that one call returns.
const READ: usize = 64 * 1024;

/// Bytes as they were received, perhaps several datagrams of one sender.
pub struct Batch {
    buffer: Vec<u8>,
    control: Vec<u8>,
}

/// What one call returned.
pub struct Received<'a> {
    /// The sender.
    pub from: Option<SocketAddr>,
    bytes: &'a [u8],
    segment: usize,
}

impl Batch {
    /// Room for what one call returns.
    pub fn new() -> Self {
        Self { buffer: vec![0; READ], control: nix::cmsg_space!(i32) }
    }

    /// Receive without waiting.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<Received<'_>> {
        let Self { buffer, control } = self;
        let (length, segment, from) = {
            let mut parts = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let message = nix_socket::recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), flags)?;
            let segment = message.cmsgs()?.find_map(|found| match found {
                ControlMessageOwned::UdpGroSegments(length) => usize::try_from(length).ok(),
                _ => None,
            });
            (message.bytes, segment, message.address.as_ref().and_then(address))
        };
        Ok(Received { from, bytes: &buffer[..length], segment: segment.unwrap_or(length).max(1) })
    }
}

impl<'a> Received<'a> {
    /// The datagrams, as they were on the wire.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment)
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

/// Send what is longer than a datagram of a train as datagrams of that length.
pub fn segment(socket: &UdpSocket) -> io::Result<()> {
    Ok(nix_socket::setsockopt(socket, nix_option::UdpGsoSegment, &(DATAGRAM as i32))?)
}

/// Receive several datagrams in one call, or one.
pub fn coalesce(socket: &UdpSocket, many: bool) -> io::Result<()> {
    Ok(nix_socket::setsockopt(socket, nix_option::UdpGroSegment, &many)?)
}

/// Room for `bytes` that wait each way. Without the right to so much it is what the machine allows.
pub fn set_buffers(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))?;
    sockopt::set_socket_send_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, bytes))?;
    Ok(())
}
