//! Socket addresses as the kernel writes them (`struct sockaddr_in`, `struct sockaddr_in6`), read and written by hand.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const V4: u16 = libc::AF_INET as u16;
const V6: u16 = libc::AF_INET6 as u16;

/// Room for one address. The kernel may write to all of it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Name([u8; Self::SIZE]);

impl Name {
    /// Of the longer of the two kinds.
    pub(super) const SIZE: usize = 28;
    pub(super) const EMPTY: Self = Self([0; Self::SIZE]);

    /// Write `address`, and tell how many bytes it takes.
    pub(super) fn write(&mut self, address: SocketAddr) -> usize {
        let bytes = &mut self.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                bytes[..2].copy_from_slice(&V4.to_ne_bytes());
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                bytes[8..16].fill(0);
                16
            }
            SocketAddr::V6(v6) => {
                bytes[..2].copy_from_slice(&V6.to_ne_bytes());
                bytes[4..8].fill(0);
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                28
            }
        }
    }

    /// The address that the kernel wrote.
    pub(super) fn read(&self) -> Option<SocketAddr> {
        read_name(&self.0)
    }

    pub(super) const fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }
}

/// The socket address that `bytes` begin with; none when they are too short or of another family.
pub(super) fn read_name(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(take(bytes, 2)?);
    match u16::from_ne_bytes(take(bytes, 0)?) {
        V4 => Some(SocketAddr::new(Ipv4Addr::from(take::<4>(bytes, 4)?).into(), port)),
        V6 => {
            let (ip, scope) = (Ipv6Addr::from(take::<16>(bytes, 8)?), u32::from_ne_bytes(take(bytes, 24)?));
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// `N` bytes at `at`.
pub(super) fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client whose address is read wrongly never gets its answer.
    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["198.18.0.1:53", "0.0.0.0:0", "[2001:db8::1]:65535", "[fe80::1%3]:9", "[::ffff:198.18.0.1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = Name([0xff; Name::SIZE]);
            name.write(address);
            assert_eq!(name.read(), Some(address), "{text}");
        }
        assert_eq!(read_name(&[2, 0, 0]), None);
        assert_eq!(Name([7; Name::SIZE]).read(), None);
    }
}
