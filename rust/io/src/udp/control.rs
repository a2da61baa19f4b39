//! Control messages of datagrams: where one was sent to, from which address one is to leave, and trains of datagrams.
//!
//! The layout is that of `cmsg(3)`: a header of length, level and kind, then the data, all aligned to a word.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::name::{read_name, take};

/// Of one header.
const HEADER: usize = size_of::<libc::cmsghdr>();
const WORD: usize = size_of::<usize>();

/// Room for the control messages of one datagram, received (original destination, local address, train) or sent.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control([u8; Self::SIZE]);

/// What the kernel tells of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Where it was sent to; without a port (0) when the socket's own is meant.
    pub(super) destination: Option<SocketAddr>,
    /// Bytes of each datagram of a train (the last may be shorter); 0: a single datagram.
    pub(super) segment: u16,
}

impl Control {
    pub(super) const SIZE: usize = 192;
    pub(super) const EMPTY: Self = Self([0; Self::SIZE]);

    pub(super) const fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Read the first `length` bytes.
    pub(super) fn read(&self, length: usize) -> Told {
        let mut told = Told::default();
        let mut rest = self.0.get(..length).unwrap_or(&self.0);
        while let Some((level, kind, data, after)) = first(rest) {
            match (level, kind) {
                (libc::SOL_IP, libc::IP_ORIGDSTADDR) | (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => {
                    told.destination = read_name(data);
                }
                // struct in_pktinfo: interface, local address, the header's destination
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    told.destination = take::<4>(data, 4).map(|ip| SocketAddr::new(Ipv4Addr::from(ip).into(), 0));
                }
                // struct in6_pktinfo: address, interface
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => told.destination = read_v6(data),
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = take(data, 0).map_or(0, i32::from_ne_bytes);
                    told.segment = u16::try_from(size).unwrap_or(0);
                }
                _ => {}
            }
            rest = after;
        }
        told
    }

    /// Ask that a datagram leave from the address of `from`, and that its bytes be a train; tells the bytes written.
    pub(super) fn write(&mut self, from: Option<SocketAddr>, segment: u16) -> usize {
        let mut at = 0;
        match from {
            None => {}
            Some(SocketAddr::V4(v4)) => {
                let mut data = [0; 12];
                data[4..8].copy_from_slice(&v4.ip().octets());
                at = self.put(at, libc::SOL_IP, libc::IP_PKTINFO, &data);
            }
            Some(SocketAddr::V6(v6)) => {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&v6.ip().octets());
                data[16..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                at = self.put(at, libc::SOL_IPV6, libc::IPV6_PKTINFO, &data);
            }
        }
        if segment > 0 {
            at = self.put(at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        at
    }

    fn put(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let end = at + HEADER + data.len();
        self.0[at..at + WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        self.0[at + WORD..at + WORD + 4].copy_from_slice(&level.to_ne_bytes());
        self.0[at + WORD + 4..at + WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        self.0[at + HEADER..end].copy_from_slice(data);
        end.next_multiple_of(WORD)
    }
}

/// The first control message: level, kind, data, and what follows it.
fn first(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(take(bytes, 0)?);
    let level = i32::from_ne_bytes(take(bytes, WORD)?);
    let kind = i32::from_ne_bytes(take(bytes, WORD + 4)?);
    let data = bytes.get(HEADER..length)?; // none as well when the length is less than a header: no endless loop
    Some((level, kind, data, bytes.get(length.next_multiple_of(WORD)..).unwrap_or_default()))
}

fn read_v6(data: &[u8]) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(take::<16>(data, 0)?);
    // Only a link-local address needs its interface; elsewhere it would keep replies from taking another one.
    let scope = if ip.is_unicast_link_local() { u32::from_ne_bytes(take(data, 16)?) } else { 0 };
    Some(SocketAddrV6::new(ip, 0, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for on the way out reads alike on the way in: a wrong offset would be another client's address.
    #[test]
    fn source_and_train_survive_the_kernels_form() {
        for (text, segment) in [("198.18.0.1:0", 0), ("[2001:db8::1]:0", 1200), ("[fe80::1%7]:0", 1)] {
            let mut control = Control([0xff; Control::SIZE]);
            let length = control.write(Some(text.parse().unwrap()), segment);
            if segment > 0 {
                // UDP_SEGMENT is a short where UDP_GRO is an int, under another number.
                assert_eq!(control.0[length - 8..length - 6], segment.to_ne_bytes());
                assert_eq!(control.0[length - 12..length - 8], libc::UDP_SEGMENT.to_ne_bytes());
            }
            assert_eq!(
                control.read(length).destination.map(|d| d.ip()),
                Some(text.parse::<SocketAddr>().unwrap().ip())
            );
        }
        assert_eq!(Control([0; Control::SIZE]).write(None, 0), 0);
    }

    /// The kernel's lengths are not trusted: a cut message is no message.
    #[test]
    fn cut_messages_are_ignored() {
        let mut control = Control::EMPTY;
        let length = control.write(Some("198.18.0.1:0".parse().unwrap()), 0);
        for cut in 0..length - 4 {
            assert_eq!(control.read(cut), Told::default(), "{cut}");
        }
        assert_eq!(Control([0xff; Control::SIZE]).read(Control::SIZE), Told::default());
        assert_eq!(Control::EMPTY.read(Control::SIZE), Told::default());
    }
}
