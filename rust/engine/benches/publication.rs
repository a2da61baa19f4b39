//! What the publication of one change costs when 10,000 pools are published: its pool is built, and the table swapped.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench may stop at a bug")]

use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use spliceway_core::pool::{BackendSpec, Balance, PoolSpec};
use spliceway_core::retry::RetryPolicy;
use spliceway_engine::engine::Batch;
use spliceway_engine::routes::{RouteKey, RouteSpec, TargetSpec, Transport};
use spliceway_engine::{Config, Engine};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

fn name(service: u32) -> String {
    format!("default/service-{service}:http")
}

fn pool(service: u32, first: u32) -> PoolSpec {
    let backend = |index| BackendSpec { address: (ip(first + index), 8080).into(), weight: 1, healthy: true };
    let backends = (0..ENDPOINTS).map(backend).collect();
    let (balance, retry) = (Balance::Maglev, RetryPolicy::default());
    PoolSpec { name: name(service), balance, retry, drain: None, affinity: None, backends }
}

fn route(service: u32) -> RouteSpec {
    let target = || Some(TargetSpec { pool: name(service), keep_source: true });
    let key = RouteKey { transport: Transport::Tcp, ip: ip((1 << 20) + service), port: 80 };
    RouteSpec { key, targets: [target(), target(), target()] }
}

fn publication(c: &mut Criterion) {
    let engine = Engine::new(Config::default()).unwrap();
    let upserts = (0..SERVICES).map(|service| pool(service, service * ENDPOINTS)).collect();
    let routes = (0..SERVICES).map(route).collect();
    engine.apply(Batch { upserts, routes, generation: 1, ..Batch::default() }).unwrap();
    let mut group = c.benchmark_group("publication");
    let mut turn = 0;
    let mut next = move || {
        turn += 1;
        turn
    };
    let apply = |batch| engine.apply(batch).unwrap();
    group.bench_function("nothing", |b| {
        let batch = || Batch { generation: next().into(), ..Batch::default() };
        b.iter_batched(batch, apply, BatchSize::SmallInput);
    });
    group.bench_function("one pool", |b| {
        let batch = || {
            let turn = next();
            let service = turn * 7919 % SERVICES;
            let mut changed = pool(service, service * ENDPOINTS);
            changed.backends[1].address.set_ip(ip((1 << 22) + turn)); // one that no table knows yet
            Batch { upserts: vec![changed], generation: turn.into(), ..Batch::default() }
        };
        b.iter_batched(batch, apply, BatchSize::SmallInput);
    });
    group.bench_function("one route", |b| {
        let batch = || {
            let turn = next();
            Batch { routes: vec![route(turn * 7919 % SERVICES)], generation: turn.into(), ..Batch::default() }
        };
        b.iter_batched(batch, apply, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, publication);
criterion_main!(benches);
