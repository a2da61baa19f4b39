//! Pools for the benches of this crate.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each bench uses a part, and may stop at a bug")]

use std::net::{Ipv4Addr, SocketAddr};

use spliceway_core::affinity::Affinities;
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{BackendSpec, Balance, Pool, PoolSpec};
use spliceway_core::retry::RetryPolicy;

/// Services of a large cluster, and the endpoints of each.
pub const SERVICES: u32 = 10_000;
pub const ENDPOINTS: u32 = 10;

pub fn address(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 8080)
}

/// Pool `number`, whose backends are `first` and the `backends` - 1 that follow.
pub fn spec(number: u32, balance: Balance, first: u32, backends: u32) -> PoolSpec {
    let backend = |index| BackendSpec { address: address(first + index), weight: 1, healthy: true };
    PoolSpec {
        name: format!("default/service-{number}:http"),
        balance,
        retry: RetryPolicy::default(),
        drain: None,
        affinity: None,
        backends: (0..backends).map(backend).collect(),
    }
}

/// One pool of so many backends.
pub fn pool(balance: Balance, backends: u32) -> Pool {
    Pool::build(spec(0, balance, 0, backends), None, &mut TableCache::new(), &Affinities::new(1)).unwrap()
}

/// The pools of a large cluster as they are asked for; `distinct`: no two have the same backends, else all have.
pub fn cluster(distinct: bool) -> Vec<PoolSpec> {
    let first = |number| if distinct { number * ENDPOINTS } else { 0 };
    (0..SERVICES).map(|number| spec(number, Balance::Maglev, first(number), ENDPOINTS)).collect()
}
