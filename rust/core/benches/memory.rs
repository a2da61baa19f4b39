//! What the pools of a large cluster cost in memory. Counted by the allocator, in bytes where criterion has times.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::unwrap_used, reason = "a bench may stop at a bug")]

mod common;

use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spliceway_core::affinity::Affinities;
use spliceway_core::hash::address_hash;
use spliceway_core::maglev::{Member, TableCache};
use spliceway_core::pool::{Pool, PoolSpec};

use common::cluster;

/// What an allocator adds to a block: glibc's header of 8 bytes, and what is lost by rounding up to 16.
const BLOCK: i64 = 16;

/// Bytes that are in use, an allocator's own included.
struct Bytes;

impl Measurement for Bytes {
    type Intermediate = ();
    type Value = f64;

    fn start(&self) {}

    fn end(&self, (): ()) -> f64 {
        0.0 // each bench counts for itself
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Bytes {
    fn scale_values(&self, _typical: f64, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|value| *value /= 1024.0 * 1024.0);
        "MiB"
    }

    fn scale_throughputs(&self, typical: f64, _: &Throughput, values: &mut [f64]) -> &'static str {
        self.scale_values(typical, values)
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "B"
    }
}

/// What is in use after `make`, while what it returns lives.
fn in_use<T>(make: impl FnOnce() -> T) -> f64 {
    let mut kept = None;
    let AllocationInfo { bytes_current, count_current, .. } = measure(|| kept = Some(make()));
    (bytes_current + BLOCK * count_current) as f64
}

fn pools(specs: &[PoolSpec]) -> (TableCache, Affinities, Vec<Pool>) {
    let (mut tables, affinities) = (TableCache::new(), Affinities::new(1));
    let build = |spec: &PoolSpec| Pool::build(spec.clone(), None, &mut tables, &affinities).unwrap();
    let pools = specs.iter().map(build).collect();
    (tables, affinities, pools)
}

fn tables(specs: &[PoolSpec]) -> impl Sized {
    let mut cache = TableCache::new();
    let tables: Vec<_> = specs
        .iter()
        .map(|spec| {
            let hashes = spec.backends.iter().map(|backend| address_hash(backend.address));
            let mut members: Vec<_> = hashes.map(|hash| Member { hash, weight: 1 }).collect();
            members.sort_unstable();
            cache.table(&members)
        })
        .collect();
    (cache, tables)
}

fn memory(c: &mut Criterion<Bytes>) {
    let mut group = c.benchmark_group("memory");
    let short = Duration::from_millis(50); // every sample is the same
    group.sample_size(10).warm_up_time(short).measurement_time(short);
    let (distinct, equal) = (cluster(true), cluster(false));
    let mut report = |name, bytes: f64| {
        group.bench_function(name, |b| b.iter_custom(|turns| bytes * turns as f64));
    };
    report("tables", in_use(|| tables(&distinct)));
    report("pools", in_use(|| pools(&distinct)));
    report("pools with equal backends", in_use(|| pools(&equal)));
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(Bytes);
    targets = memory
}
criterion_main!(benches);
