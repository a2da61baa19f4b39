//! What an update pays for tables and pools.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench may stop at a bug")]

mod common;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use spliceway_core::affinity::Affinities;
use spliceway_core::hash::{address_hash, mix};
use spliceway_core::maglev::{Member, Table, TableCache};
use spliceway_core::pool::{Balance, Pool, PoolSpec};

use common::{ENDPOINTS, SERVICES, address, cluster, pool, spec};

/// Members that differ from those of every other `turn`: a processor learns a table that is built again and again.
fn members(count: u64, turn: u64) -> Vec<Member> {
    let mut members: Vec<Member> = (0..count).map(|n| Member { hash: mix(n, turn), weight: 1 }).collect();
    members.sort_unstable();
    members
}

/// One table by its number of backends; the largest has 65,537 slots.
fn table(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    for backends in [3, 10, 100, 1000] {
        let mut turns = 0..;
        group.bench_function(BenchmarkId::new("build", backends), |b| {
            let members = || members(backends, turns.next().unwrap());
            b.iter_batched(members, |members| Table::build(black_box(&members)), BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// One pool of which one backend has changed.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool");
    for backends in [10, 100, 1000] {
        let before = pool(Balance::Maglev, backends);
        let (mut tables, affinities) = (TableCache::new(), Affinities::new(1));
        let mut others = backends..;
        group.bench_function(BenchmarkId::new("change", backends), |b| {
            let changed = || {
                let mut spec = spec(0, Balance::Maglev, 0, backends);
                spec.backends[1].address = address(others.next().unwrap());
                spec
            };
            let build = |spec| Pool::build(spec, Some(&before), &mut tables, &affinities).unwrap();
            b.iter_batched(changed, build, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn build_all(specs: Vec<PoolSpec>) -> Vec<Pool> {
    let (mut tables, affinities) = (TableCache::new(), Affinities::new(1));
    specs.into_iter().map(|spec| Pool::build(spec, None, &mut tables, &affinities).unwrap()).collect()
}

/// All of a large cluster: the tables alone, and the pools with them.
fn all(c: &mut Criterion) {
    let mut group = c.benchmark_group("all");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let of_service = |service: u32| {
        let numbers = service * ENDPOINTS..(service + 1) * ENDPOINTS;
        let mut members: Vec<_> = numbers.map(|n| Member { hash: address_hash(address(n)), weight: 1 }).collect();
        members.sort_unstable();
        members
    };
    let services: Vec<Vec<Member>> = (0..SERVICES).map(of_service).collect();
    group.bench_function("tables", |b| {
        b.iter_with_large_drop(|| {
            let mut cache = TableCache::new();
            services.iter().map(|members| cache.table(members)).collect::<Vec<_>>()
        });
    });
    for (name, distinct) in [("pools", true), ("pools with equal backends", false)] {
        group.bench_function(name, |b| b.iter_batched(|| cluster(distinct), build_all, BatchSize::PerIteration));
    }
    group.finish();
}

criterion_group!(benches, table, change, all);
criterion_main!(benches);
