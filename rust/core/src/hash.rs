//! Fixed hashes. Every node and every version must agree on them, or a client's flows move to other backends when it
//! reaches another node, and all of them move at an upgrade. Golden vectors in `tests/hash_vectors.rs` hold them still.

use std::net::{IpAddr, SocketAddr};

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15; // 2^64 / golden ratio: no structure in common with addresses
const V4: u64 = 0x8bb8_4b93_962e_acc9;
const V6: u64 = 0x4b33_a62e_d433_d4a3;
const NAME: u64 = 0x4d5a_2da5_1de1_aa47;

/// Spreads every input bit over all output bits; a bijection (the finalizer of SplitMix64).
#[inline]
pub(crate) const fn finalize(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Derives an independent hash from `key` for each `salt`.
#[inline]
#[must_use]
pub const fn mix(key: u64, salt: u64) -> u64 {
    finalize(key ^ finalize(salt.wrapping_add(GOLDEN)))
}

/// Maps a well-mixed `key` evenly to `0..n`, without division.
#[inline]
#[must_use]
pub const fn fastrange(key: u64, n: usize) -> usize {
    ((key as u128 * n as u128) >> 64) as usize
}

/// Hash of an IP address and port. A v4-mapped IPv6 address hashes as its IPv4 address. Flow label and scope do not
/// count: they differ between nodes.
#[inline]
#[must_use]
pub fn address_hash(address: SocketAddr) -> u64 {
    let port = u64::from(address.port());
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => finalize((u64::from(ip.to_bits()) << 16 | port) ^ V4),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            mix(mix((bits >> 64) as u64 ^ V6, bits as u64), port)
        }
    }
}

/// Hash of a pool's name; its seed, so that one client does not meet the same luck in every pool.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    let start = mix(NAME, name.len() as u64);
    name.as_bytes().chunks(8).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash, u64::from_le_bytes(word))
    })
}

/// The key by which every flow from `client`, whatever its port, picks in the pool with this seed.
#[inline]
#[must_use]
pub fn source_key(client: IpAddr, pool_seed: u64) -> u64 {
    flow_key(SocketAddr::new(client, 0), pool_seed)
}

/// The key by which a flow from `client` picks in the pool with this seed (a [`name_hash`]).
#[inline]
#[must_use]
pub fn flow_key(client: SocketAddr, pool_seed: u64) -> u64 {
    finalize(address_hash(client) ^ pool_seed)
}
