//! What tells sessions apart, and how it is hashed.

use std::hash::{BuildHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use spliceway_core::hash::mix;

/// What tells sessions apart. Both addresses as the kernel gives them, v4-mapped ones too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) client: SocketAddr,
    /// The address that the client dialled.
    pub(crate) dialled: SocketAddr,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for address in [self.client, self.dialled] {
            let port = u64::from(address.port());
            match address.ip() {
                IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 16 | port),
                IpAddr::V6(ip) => {
                    state.write_u64((ip.to_bits() >> 64) as u64);
                    state.write_u64(ip.to_bits() as u64);
                    state.write_u64(port);
                }
            }
        }
    }
}

/// Hashes keys under a secret, so that clients cannot choose addresses that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(u64);

impl Keyed {
    pub(crate) const fn new(secret: u64) -> Self {
        Self(secret)
    }
}

impl BuildHasher for Keyed {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Keyed {
    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0, word);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Clients that hash alike would make every datagram slow; the secret must reach every part of the key.
    #[test]
    fn keys_spread_under_every_secret() {
        let texts =
            ["198.18.0.1:1", "198.18.0.1:2", "198.18.0.2:1", "[::ffff:198.18.0.1]:1", "[fd00::1]:1", "[fd01::1]:1"];
        let addresses: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let pairs = addresses.iter().flat_map(|&client| addresses.iter().map(move |&dialled| Key { client, dialled }));
        let keys: Vec<Key> = pairs.collect();
        for secret in [0, 1, u64::MAX] {
            let hashes: HashSet<u64> = keys.iter().map(|key| Keyed::new(secret).hash_one(key)).collect();
            assert_eq!(hashes.len(), keys.len());
        }
        for key in keys {
            assert_ne!(Keyed::new(1).hash_one(key), Keyed::new(2).hash_one(key));
        }
    }
}
