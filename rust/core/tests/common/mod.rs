//! Pools and flows for the tests of this crate.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part; a test stops at a bug")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use spliceway_core::affinity::Affinities;
use spliceway_core::hash::mix;
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{BackendSpec, Balance, Pool, PoolSpec};
use spliceway_core::retry::RetryPolicy;

/// The address of backend `number`.
pub fn address(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 8080)
}

/// The address of a client that depends on all bits of `number`.
pub fn client(number: u64) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits((number >> 32) as u32 ^ number as u32).into(), (number >> 16) as u16)
}

/// Backend `number` of weight `weight`.
pub fn backend(number: u32, weight: u16, healthy: bool) -> BackendSpec {
    BackendSpec { address: address(number), weight, healthy }
}

/// Backends 0, 1, 2, ... of these weights, all healthy.
pub fn backends(weights: &[u16]) -> Vec<BackendSpec> {
    (0..).zip(weights).map(|(number, &weight)| backend(number, weight, true)).collect()
}

/// A pool as it is asked for, with the default policy.
pub fn spec(balance: Balance, backends: Vec<BackendSpec>) -> PoolSpec {
    let (name, retry) = ("default/shop:http".to_owned(), RetryPolicy::default());
    PoolSpec { name, balance, retry, drain: Some(Duration::from_secs(30)), affinity: None, backends }
}

/// The built pool.
pub fn pool(balance: Balance, backends: Vec<BackendSpec>) -> Pool {
    build(spec(balance, backends))
}

/// The built pool.
pub fn build(spec: PoolSpec) -> Pool {
    Pool::build(spec, None, &mut TableCache::new(), &Affinities::new(1000)).unwrap()
}

/// Keys as those of `count` clients.
pub fn keys(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|client| mix(client, 0x5eed))
}
