//! What the data path pays for a pick, and what an update pays for tables. Goals: maglev ≤ 8 ns, p2c ≤ 20 ns, least-conn
//! ≤ 40 ns at 10 backends; a table of 1,000 × 65,537 ≤ 1 ms; 10,000 tables of 10 ≤ 150 ms.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench may stop at a bug")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use spliceway_core::affinity::Affinities;
use spliceway_core::hash::{flow_key, mix};
use spliceway_core::maglev::{Member, Table, TableCache};
use spliceway_core::pool::{AffinitySpec, BackendSpec, Balance, Pool, PoolSpec};
use spliceway_core::retry::RetryPolicy;
use spliceway_core::rng::Rng;

fn address(number: u32) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 8080)
}

fn spec(pool: u32, balance: Balance, backends: u32) -> PoolSpec {
    let backend = |index| BackendSpec { address: address(pool * backends + index), weight: 1, healthy: true };
    PoolSpec {
        name: format!("default/service-{pool}:http"),
        balance,
        retry: RetryPolicy::default(),
        drain: None,
        affinity: None,
        backends: (0..backends).map(backend).collect(),
    }
}

fn picks(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for balance in Balance::ALL {
        for backends in [10, 1000] {
            let pool =
                Pool::build(spec(0, balance, backends), None, &mut TableCache::new(), &Affinities::new(1000)).unwrap();
            let (mut rng, mut key) = (Rng::new(1), 0);
            group.bench_function(BenchmarkId::new(balance.as_str(), backends), |b| {
                b.iter(|| {
                    key = mix(key, 1);
                    pool.pick(black_box(key), &[], &mut rng).map(|backend| backend.weight)
                });
            });
        }
    }
    let affinities = Affinities::new(262_144);
    let affinity =
        Some(AffinitySpec { group: "default/service-0:http".to_owned(), timeout: Duration::from_secs(10_800) });
    let with_affinity = PoolSpec { affinity, ..spec(0, Balance::Maglev, 10) };
    let pool = Pool::build(with_affinity, None, &mut TableCache::new(), &affinities).unwrap();
    for (name, clients) in [("affinity, 1,000 clients", 1000), ("affinity, more clients than fit", 1 << 20)] {
        let (mut rng, mut key) = (Rng::new(1), 0);
        group.bench_function(BenchmarkId::new(name, 10), |b| {
            b.iter(|| {
                key = mix(key, 1);
                let client = address(key as u32 % clients);
                pool.pick_for(black_box(client), &[], Duration::from_secs(1), &mut rng).map(|backend| backend.weight)
            });
        });
    }
    group.bench_function("key only (included above)", |b| {
        let mut key = 0;
        b.iter(|| {
            key = mix(key, 1);
            black_box(key)
        });
    });
    group.bench_function("flow key", |b| b.iter(|| flow_key(black_box(address(7)), black_box(1))));
    group.finish();
}

fn builds(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    let members = |first: u64, count: u64, weight: u16| {
        let mut members: Vec<Member> = (first..first + count).map(|n| Member { hash: mix(n, 0), weight }).collect();
        members.sort_unstable();
        members
    };
    let thousand = members(0, 1000, 1);
    group.bench_function("table of 1,000 backends, 65,537 slots", |b| b.iter(|| Table::build(black_box(&thousand))));
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let tens: Vec<Vec<Member>> = (0..10_000).map(|pool| members(pool * 10, 10, 1)).collect();
    group.bench_function("10,000 tables of 10 backends", |b| {
        b.iter(|| {
            let mut cache = TableCache::new();
            tens.iter().map(|ten| cache.table(ten)).collect::<Vec<_>>()
        });
    });
    group.bench_function("10,000 pools of 10 backends", |b| {
        b.iter(|| {
            let mut cache = TableCache::new();
            let pools = (0..10_000)
                .map(|pool| Pool::build(spec(pool, Balance::Maglev, 10), None, &mut cache, &Affinities::new(1000)));
            pools.collect::<Result<Vec<_>, _>>().unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, picks, builds);
criterion_main!(benches);
