//! What the data path pays to choose a backend, everything hot in the cache. `pick/key` is what the bench itself adds.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench may stop at a bug")]

mod common;

use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use spliceway_core::affinity::Affinities;
use spliceway_core::hash::{flow_key, mix};
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{AffinitySpec, Balance, Pool, PoolSpec};
use spliceway_core::retry::Dial;
use spliceway_core::rng::Rng;

use common::{address, pool, spec};

const NOW: Duration = Duration::from_secs(1);

/// Keys of flows, as they come: in no order.
fn keys() -> impl FnMut() -> u64 {
    let keys: [u64; 1024] = std::array::from_fn(|n| mix(n as u64, 1));
    let mut turn = 0;
    move || {
        turn += 1;
        keys[turn % keys.len()]
    }
}

fn picks(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for balance in Balance::ALL {
        for backends in [3, 10, 1000] {
            let pool = pool(balance, backends);
            // Loads as they are in a busy pool: unequal, in no order.
            (0..).zip(&pool.backends).for_each(|(n, backend)| backend.active.store(mix(n, 7) as u32 % 8, Relaxed));
            let (mut rng, mut key) = (Rng::new(1), keys());
            group.bench_function(BenchmarkId::new(balance.as_str(), backends), |b| {
                b.iter(|| black_box(&pool).pick(key(), &[], &mut rng).map(|backend| backend.weight));
            });
        }
    }
    group.bench_function("key", |b| b.iter(keys()));
    group.finish();
}

/// The client's backend is found by affinity: among few clients, and among more than are remembered.
fn affinity(c: &mut Criterion) {
    let affinities = Affinities::new(262_144);
    let remembered = AffinitySpec { group: "default/service-0:http".to_owned(), timeout: Duration::from_secs(10_800) };
    let with_affinity = PoolSpec { affinity: Some(remembered), ..spec(0, Balance::Maglev, 0, 10) };
    let pool = Pool::build(with_affinity, None, &mut TableCache::new(), &affinities).unwrap();
    let mut group = c.benchmark_group("affinity");
    for clients in [1000, 1 << 20] {
        let (mut rng, mut number) = (Rng::new(1), 0);
        group.bench_function(BenchmarkId::new("clients", clients), |b| {
            b.iter(|| {
                number = mix(number, 1);
                let client = address(number as u32 % clients);
                pool.pick_for(black_box(client), &[], NOW, &mut rng).map(|backend| backend.weight)
            });
        });
    }
    group.finish();
}

/// What a flow without a retry pays: its key, and its first attempt with all that belongs to one.
fn dial(c: &mut Criterion) {
    let mut group = c.benchmark_group("dial");
    group.bench_function("key", |b| b.iter(|| flow_key(black_box(address(7)), black_box(1))));
    let (pool, mut rng, mut number) = (pool(Balance::Maglev, 10), Rng::new(1), 0);
    group.bench_function("first", |b| {
        b.iter(|| {
            number = (number + 1) % 4096;
            let mut dial = Dial::new(NOW);
            (dial.next(&pool, black_box(address(number)), NOW, &mut rng), dial)
        });
    });
    group.finish();
}

criterion_group!(benches, picks, affinity, dial);
criterion_main!(benches);
