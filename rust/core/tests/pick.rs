//! What every scheduler promises about a pick, and its own shares.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use spliceway_core::pool::{BackendSpec, Balance, Pool};
use spliceway_core::rng::Rng;

use common::{backend, backends, keys, pool};

fn any_backends() -> impl Strategy<Value = Vec<BackendSpec>> {
    let one = (prop_oneof![Just(0u16), Just(1), 1..=9u16, 1..=u16::MAX], any::<bool>());
    vec(one, 0..12).prop_map(|list| (0..).zip(list).map(|(n, (weight, healthy))| backend(n, weight, healthy)).collect())
}

fn share(pool: &Pool, rng: &mut Rng, flows: u64) -> BTreeMap<SocketAddr, u64> {
    let mut counts = BTreeMap::new();
    for key in keys(flows) {
        let chosen = pool.pick(key, &[], rng).map(|b| b.address);
        *counts.entry(chosen.unwrap_or_else(|| common::address(u32::from(u16::MAX)))).or_default() += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    // Without it, a retry could go to the dead backend again, to an unhealthy one before a healthy one, to one that is
    // drained by weight 0, or end early although another backend would have answered.
    #[test]
    fn retries_go_through_all_usable_backends_healthy_first(
        balance in select(&Balance::ALL), specs in any_backends(), key in any::<u64>(), seed in any::<u64>(),
        loads in vec(0..5u32, 12),
    ) {
        let pool = pool(balance, specs.clone());
        pool.backends.iter().zip(loads).for_each(|(b, load)| b.active.store(load, Relaxed));
        let usable = specs.iter().filter(|b| b.weight > 0).count();
        let (mut rng, mut tried) = (Rng::new(seed), Vec::new());
        let mut health = Vec::new();
        while tried.len() < usable {
            let chosen = pool.pick(key, &tried, &mut rng);
            prop_assert!(chosen.is_some(), "{} of {usable} tried, then none", tried.len());
            if let Some(chosen) = chosen {
                prop_assert!(chosen.weight > 0);
                prop_assert!(!tried.contains(&chosen.address));
                health.push(chosen.healthy);
                tried.push(chosen.address);
            }
        }
        prop_assert!(health.is_sorted_by(|a, b| a >= b), "{health:?}");
        let last = pool.pick(key, &tried, &mut rng).map(|b| b.address);
        prop_assert_eq!(last, if usable == 1 { Some(tried[0]) } else { None });
    }

    // Without it, `explain` would tell another order than the one that flows take.
    #[test]
    fn preview_is_what_happens(
        balance in select(&[Balance::Maglev, Balance::RoundRobin, Balance::Random, Balance::SourceHash][..]), specs in any_backends(),
        key in any::<u64>(), seed in any::<u64>(), turns in 0..20u64,
    ) {
        let pool = pool(balance, specs);
        let mut rng = Rng::new(seed);
        keys(turns).for_each(|key| { pool.pick(key, &[], &mut rng); });
        let (client, now) = (common::client(key), Duration::ZERO);
        let preview = pool.preview(client, now, &rng);
        prop_assert_eq!(&preview, &pool.preview(client, now, &rng), "a preview left a trace");
        prop_assert_eq!(preview.len(), pool.backends.len());
        let mut tried = Vec::new();
        for (expected, rank) in preview.iter().filter(|p| p.rank > 0).zip(1..) {
            prop_assert_eq!(expected.rank, rank);
            let chosen = pool.pick_for(client, &tried, now, &mut rng).map(|b| b.address);
            prop_assert_eq!(chosen, Some(pool.backends[expected.index].address));
            tried.extend(chosen);
        }
        let tries = usize::from(pool.retry.tries).min(pool.usable().len());
        prop_assert_eq!(tried.len(), tries);
    }

    // Without it, a flip of one Pod's health would move the clients of the others.
    #[test]
    fn maglev_moves_only_flows_of_the_backend_that_flips(count in 2..40u32, flips in any::<prop::sample::Index>()) {
        let flips = flips.index(count as usize) as u32;
        let all = |healthy: &dyn Fn(u32) -> bool| (0..count).map(|n| backend(n, 1 + n as u16 % 3, healthy(n))).collect();
        let before = pool(Balance::Maglev, all(&|n| n % 7 != 3));
        let after = pool(Balance::Maglev, all(&|n| (n % 7 != 3) != (n == flips)));
        prop_assume!(after.usable().iter().any(|b| b.healthy));
        let mut rng = Rng::new(0);
        for key in keys(300) {
            let was = before.pick(key, &[], &mut rng).map(|b| b.address);
            let is = after.pick(key, &[], &mut rng).map(|b| b.address);
            let flipped = Some(common::address(flips));
            prop_assert!(was == is || was == flipped || is == flipped);
        }
    }

    // Without it, round-robin would not be one: shares over a round are exactly the weights, evenly spread.
    #[test]
    fn round_robin_is_exact_over_a_round(weights in vec(1..=20u16, 1..10), start in 0..100usize) {
        let pool = pool(Balance::RoundRobin, backends(&weights));
        let mut rng = Rng::new(0);
        let round: usize = weights.iter().map(|&w| usize::from(w)).sum();
        let order: Vec<SocketAddr> =
            (0..start + round).filter_map(|_| pool.pick(0, &[], &mut rng).map(|b| b.address)).collect();
        for (number, &weight) in (0..).zip(&weights) {
            let times = order[start..].iter().filter(|&&a| a == common::address(number)).count();
            prop_assert_eq!(times, usize::from(weight));
        }
    }
}

// Without it, a weight would not mean a share of the flows.
#[test]
fn shares_of_new_flows_follow_weights() {
    let weights = [1, 2, 3, 4, 10];
    for balance in [Balance::Maglev, Balance::Random, Balance::RoundRobin, Balance::SourceHash] {
        let pool = pool(balance, backends(&weights));
        let counts = share(&pool, &mut Rng::new(1), 40_000);
        for (number, weight) in (0..).zip(weights) {
            let (share, ideal) = (counts[&common::address(number)] as f64, 2000.0 * f64::from(weight));
            assert!((share / ideal - 1.0).abs() < 0.08, "{balance}: weight {weight} got {share}, not {ideal}");
        }
    }
}

// Without it, flows of an unhealthy backend would all fall on one survivor.
#[test]
fn maglev_spreads_the_flows_of_unhealthy_backends() {
    for unhealthy in [1, 5, 18] {
        let pool = pool(Balance::Maglev, (0..20).map(|n| backend(n, 1, n >= unhealthy)).collect());
        let counts = share(&pool, &mut Rng::new(1), 40_000);
        let ideal = 40_000.0 / f64::from(20 - unhealthy);
        assert_eq!(counts.len(), 20 - unhealthy as usize);
        assert!(counts.values().all(|&n| (n as f64 / ideal - 1.0).abs() < 0.2), "{unhealthy} unhealthy: {counts:?}");
    }
}

// Without it, when health is wrong about everything, nothing would be served (fail open).
#[test]
fn all_unhealthy_is_as_all_healthy() {
    let specs = |healthy| (0..10).map(|n| backend(n, 1 + n as u16, healthy)).collect();
    for balance in [Balance::Maglev, Balance::RoundRobin, Balance::Random] {
        let [dead, live] = [false, true].map(|healthy| share(&pool(balance, specs(healthy)), &mut Rng::new(3), 1000));
        assert_eq!(dead, live);
    }
}

// Without it, a client of an application that keeps state per client address would change its backend with each
// connection; and clients would not be spread.
#[test]
fn source_hash_looks_at_the_address_alone() {
    let (pool, mut rng) = (pool(Balance::SourceHash, backends(&[1, 1, 2])), Rng::new(1));
    let mut counts = BTreeMap::new();
    for number in 0..4000 {
        let ip = std::net::Ipv4Addr::from_bits(0x0a0a_0000 + number);
        let mut pick = |port| pool.pick_for((ip, port).into(), &[], Duration::ZERO, &mut rng).map(|b| b.address);
        let first = pick(1);
        assert!([2, 40_000, 65_535].into_iter().all(|port| pick(port) == first));
        *counts.entry(first).or_insert(0) += 1;
    }
    assert!((1800..2200).contains(&counts[&Some(common::address(2))]), "{counts:?}");
    let v6 = |port| pool.key((std::net::Ipv6Addr::LOCALHOST, port).into());
    assert_eq!(v6(1), v6(2));
}

// Without it, source-hash would send a client to different backends on two nodes, or after an update.
#[test]
fn source_hash_has_golden_vectors() {
    let pool = pool(Balance::SourceHash, backends(&[1; 10]));
    let chosen = (0..12).filter_map(|n| {
        let client = (std::net::Ipv4Addr::new(192, 0, 2, n), 1234).into();
        let chosen = pool.pick_for(client, &[], Duration::ZERO, &mut Rng::new(0))?;
        (0..10).find(|&number| common::address(number) == chosen.address)
    });
    assert_eq!(chosen.collect::<Vec<u32>>(), [0, 9, 5, 5, 4, 8, 1, 6, 4, 1, 4, 0]);
}

// Without it, an idle light backend would wait for flows while a heavy one has several (sed), or take a flow although a
// heavy one would serve it sooner.
#[test]
fn sed_and_nq_differ_in_whether_an_idle_backend_comes_first() {
    for (balance, expected) in [(Balance::Sed, [0, 0, 4]), (Balance::Nq, [1, 1, 2])] {
        let pool = pool(balance, backends(&[1, 1, 8]));
        let loads = stack(&pool, 4);
        let of = |number| loads.iter().find(|(address, _)| *address == common::address(number)).map_or(9, |(_, n)| *n);
        assert_eq!([0, 1, 2].map(of), expected, "{balance}");
    }
    // However the scan meets them, idle ones come before a heavy one that has a flow.
    let weights = [1, 1, 1, 1, 9, 1, 1, 1, 1, 9];
    assert!(stack(&pool(Balance::Nq, backends(&weights)), 10).iter().all(|(_, load)| *load == 1));
    // Under load both keep the loads level by weight.
    for balance in [Balance::Sed, Balance::Nq] {
        for (address, load) in stack(&pool(balance, backends(&[1, 1, 2, 4])), 800) {
            let weight = [1, 1, 2, 4][(0..4).find(|&n| common::address(n as u32) == address).unwrap_or(0)];
            assert!(load.abs_diff(100 * weight) <= 1, "{balance}: {address}: {load}");
        }
    }
}

// Without it, idle backends of equal weight would not share the first flows.
#[test]
fn sed_and_nq_take_turns_among_equals() {
    for balance in [Balance::Sed, Balance::Nq] {
        let counts = share(&pool(balance, backends(&[1; 10])), &mut Rng::new(2), 10_000);
        assert!(counts.len() == 10 && counts.values().all(|n| (800..1200).contains(n)), "{balance}: {counts:?}");
    }
}

/// Picks for `flows` flows that stay open, and returns the loads.
fn stack(pool: &Pool, flows: u64) -> Vec<(SocketAddr, u32)> {
    let mut rng = Rng::new(5);
    for key in keys(flows) {
        if let Some(chosen) = pool.pick(key, &[], &mut rng) {
            chosen.active.fetch_add(1, Relaxed);
        }
    }
    pool.backends.iter().map(|b| (b.address, b.active.load(Relaxed))).collect()
}

// Without it, long flows would pile up on some backends.
#[test]
fn least_conn_keeps_loads_level_by_weight() {
    let weights = [1, 1, 2, 4];
    for (address, load) in stack(&pool(Balance::LeastConn, backends(&weights)), 800) {
        let weight = weights[(0..4).find(|&n| common::address(n as u32) == address).unwrap_or(0)];
        assert!(load.abs_diff(100 * u32::from(weight)) <= 1, "{address}: {load}");
    }
}

// Without it, the first backend in the list would get every flow while all are idle.
#[test]
fn least_conn_takes_turns_among_equals() {
    let counts = share(&pool(Balance::LeastConn, backends(&[1; 10])), &mut Rng::new(2), 10_000);
    assert!(counts.len() == 10 && counts.values().all(|n| (800..1200).contains(n)), "{counts:?}");
}

// Without it, p2c would be no better than random: two choices keep the heaviest load close to the mean.
#[test]
fn p2c_keeps_loads_close() {
    let heaviest = |balance| stack(&pool(balance, backends(&[1; 50])), 50_000).iter().map(|(_, load)| *load).max();
    assert!(heaviest(Balance::P2c) < Some(1010), "{:?}", heaviest(Balance::P2c));
    assert!(heaviest(Balance::Random) > Some(1030), "the comparison shows nothing");
    let loads = stack(&pool(Balance::P2c, backends(&[1, 1, 8])), 1000);
    let heavy = loads.iter().find(|(address, _)| *address == common::address(2)).map_or(0, |(_, load)| *load);
    assert!((760..840).contains(&heavy), "{loads:?}");
}

// Without it, heavy weights would make a pool slow to build, or a light backend starve.
#[test]
fn a_long_round_is_scaled_down_and_nobody_starves() {
    let pool = pool(Balance::RoundRobin, backends(&[1, 30_000, 60_000]));
    let counts = share(&pool, &mut Rng::new(0), 5000);
    let [light, mid, heavy] = [0, 1, 2].map(|n| counts[&common::address(n)] as f64);
    assert!((1.0..=3.0).contains(&light) && (heavy / mid - 2.0).abs() < 0.02, "{counts:?}");
}
