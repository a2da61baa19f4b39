//! Session affinity: who stays, how long, who is drawn anew, and how much is remembered.

mod common;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use spliceway_core::affinity::Affinities;
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{AffinitySpec, BackendSpec, Balance, Pool, PoolSpec};
use spliceway_core::rng::Rng;

use common::{address, backend, backends, spec};

const S: Duration = Duration::from_secs(1);

/// A pool of group `group` in the place of `previous`, published.
fn publish(
    affinities: &Affinities,
    previous: Option<&Pool>,
    group: Option<(&str, Duration)>,
    balance: Balance,
    backends: Vec<BackendSpec>,
) -> Pool {
    let affinity = group.map(|(group, timeout)| AffinitySpec { group: group.to_owned(), timeout });
    let spec = PoolSpec { affinity, ..spec(balance, backends) };
    let built = Pool::build(spec, previous, &mut TableCache::new(), affinities);
    let pool = built.unwrap_or_else(|error| unreachable!("{error}"));
    affinities.enter(Some(&pool));
    affinities.leave(previous);
    pool
}

/// A new flow of client `number`; each has a port of its own.
fn flow(pool: &Pool, number: u32, now: Duration, rng: &mut Rng) -> Option<SocketAddr> {
    retry(pool, number, &[], now, rng)
}

fn retry(pool: &Pool, number: u32, tried: &[SocketAddr], now: Duration, rng: &mut Rng) -> Option<SocketAddr> {
    let client = (Ipv4Addr::from_bits(0xc612_0000 + number), rng.below(65_536) as u16);
    pool.pick_for(client.into(), tried, now, rng).map(|backend| backend.address)
}

#[derive(Clone, Debug)]
enum Act {
    /// A new flow of a client to the cluster pool or to the local one.
    Flow {
        client: u32,
        local: bool,
    },
    /// The same, and its first backend does not answer.
    Retry {
        client: u32,
    },
    Wait(u64),
    /// Both pools get other backends (weight, healthy); the local one gets every second of them.
    Backends(Vec<(u16, bool)>),
    Timeout(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let member = (prop_oneof![Just(0u16), 1..4u16], prop::bool::weighted(0.8));
    let act = prop_oneof![
        6 => (0..6u32, any::<bool>()).prop_map(|(client, local)| Act::Flow { client, local }),
        1 => (0..6u32).prop_map(|client| Act::Retry { client }),
        2 => (0..8000u64).prop_map(Act::Wait),
        1 => vec(member, 1..8).prop_map(Act::Backends),
        1 => (1..20u64).prop_map(Act::Timeout),
    ];
    vec(act, 1..120)
}

/// What is to be remembered, told in the simplest way.
#[derive(Default)]
struct Model {
    pins: HashMap<u32, (SocketAddr, Duration)>,
}

impl Model {
    /// The backend that a client must get, if it is bound to one.
    fn bound(&self, pool: &Pool, client: u32, now: Duration, timeout: Duration) -> Option<SocketAddr> {
        let (backend, used) = *self.pins.get(&client)?;
        let found = pool.usable().iter().find(|b| b.address == backend)?;
        let nothing_better = found.healthy || pool.usable().iter().all(|b| !b.healthy);
        (now - used < timeout && nothing_better).then_some(backend)
    }
}

proptest! {
    // Without it, a client would lose its session while its backend lives and its time is not over, or would be sent to a
    // backend that its pool does not have (a node-local pool, say).
    #[test]
    fn clients_stay_while_they_may(balance in select(&Balance::ALL), acts in acts(), seed in any::<u64>()) {
        let affinities = Affinities::new(100);
        let (mut rng, mut now, mut timeout, mut model) = (Rng::new(seed), S, 10 * S, Model::default());
        let mut specs = backends(&[1, 1, 1]);
        let local = |specs: &[BackendSpec]| specs.iter().step_by(2).cloned().collect::<Vec<_>>();
        let build = |old: Option<&Pool>, specs, timeout| publish(&affinities, old, Some(("g", timeout)), balance, specs);
        let mut pools = [build(None, specs.clone(), timeout), build(None, local(&specs), timeout)];
        for act in acts {
            match act {
                Act::Flow { client, local } => {
                    let pool = &pools[usize::from(local)];
                    let bound = model.bound(pool, client, now, timeout);
                    let chosen = flow(pool, client, now, &mut rng);
                    prop_assert!(bound.is_none() || bound == chosen, "{bound:?}, not {chosen:?}");
                    prop_assert_eq!(chosen.is_some(), !pool.usable().is_empty());
                    model.pins.extend(chosen.map(|backend| (client, (backend, now))));
                }
                Act::Retry { client } => {
                    let pool = &pools[0];
                    let Some(first) = flow(pool, client, now, &mut rng) else { continue };
                    let chosen = retry(pool, client, &[first], now, &mut rng);
                    prop_assert!(chosen != Some(first) || pool.usable().len() == 1);
                    model.pins.insert(client, (chosen.unwrap_or(first), now));
                }
                Act::Wait(ms) => now += Duration::from_millis(ms),
                Act::Backends(list) => {
                    specs = (0..).zip(list).map(|(n, (weight, healthy))| backend(n, weight, healthy)).collect();
                }
                Act::Timeout(seconds) => timeout = S * seconds as u32,
            }
            pools = [build(Some(&pools[0]), specs.clone(), timeout), build(Some(&pools[1]), local(&specs), timeout)];
            // Nothing is remembered that does not count, and nothing that counts is forgotten.
            let alive = model.pins.values().filter(|(_, used)| now - *used < timeout).count();
            model.pins.retain(|_, (_, used)| now - *used < timeout);
            prop_assert_eq!(affinities.len(now), alive);
        }
        affinities.leave(Some(&pools[0]));
        affinities.leave(Some(&pools[1]));
        prop_assert_eq!(affinities.len(now), 0, "no pool names the group any more");
    }

    // Without it, many clients would use up the node's memory; or the ones that are active would be forgotten first.
    #[test]
    fn the_bound_holds_and_the_idle_longest_goes_first(limit in 1..20usize, clients in vec(0..40u32, 1..200)) {
        let (affinities, mut rng) = (Affinities::new(limit), Rng::new(1));
        let pool = publish(&affinities, None, Some(("g", 1000 * S)), Balance::Random, backends(&[1; 50]));
        let (mut order, mut forgotten, mut known): (Vec<u32>, u64, HashMap<u32, _>) = Default::default();
        for (client, ms) in clients.into_iter().zip(0..) {
            let chosen = flow(&pool, client, Duration::from_millis(ms), &mut rng);
            if order.contains(&client) {
                prop_assert_eq!(Some(&chosen), known.get(&client));
                order.retain(|&other| other != client);
            } else if order.len() == limit {
                order.remove(0);
                forgotten += 1;
            }
            order.push(client);
            known.insert(client, chosen);
            prop_assert_eq!(affinities.len(S), order.len());
            prop_assert_eq!(affinities.limit_hits(), forgotten);
        }
    }
}

// Without it, more clients than fit would be remembered where the memory is divided, as it is on a real node.
#[test]
fn the_bound_holds_in_all_parts_together() {
    let (affinities, mut rng) = (Affinities::new(16_384), Rng::new(1));
    let pool = publish(&affinities, None, Some(("g", 100 * S)), Balance::Maglev, backends(&[1; 10]));
    for client in 0..40_000 {
        flow(&pool, client, S, &mut rng);
    }
    let (now, forgotten) = (affinities.len(S), affinities.limit_hits());
    assert_eq!(now, 16_384);
    assert_eq!(now as u64 + forgotten, 40_000);
    assert_eq!(affinities.len(101 * S), 0);
    flow(&pool, 1, 101 * S, &mut rng);
    assert_eq!(affinities.limit_hits(), forgotten, "what had expired was not forgotten for lack of room");
}

// Without it, room would be said to lack although all that was there had expired.
#[test]
fn the_expired_make_room_unnoticed() {
    let (affinities, mut rng) = (Affinities::new(8), Rng::new(1));
    let pool = publish(&affinities, None, Some(("g", S)), Balance::Maglev, backends(&[1; 10]));
    for client in 0..80 {
        flow(&pool, client, S * (1 + client / 8), &mut rng);
    }
    assert_eq!(affinities.limit_hits(), 0);
}

// Without it, a client would come back to the same backend after its time is over, however long it stays away.
#[test]
fn after_its_time_a_client_is_drawn_anew() {
    for balance in Balance::ALL {
        let (affinities, mut rng) = (Affinities::new(10), Rng::new(7));
        let pool = publish(&affinities, None, Some(("g", 125 * S)), balance, backends(&[1; 3]));
        let seen: HashSet<_> = (1..=20).map(|turn| flow(&pool, 1, 130 * S * turn, &mut rng)).collect();
        assert!(seen.len() > 1, "{balance}: always {seen:?}");
        let kept: HashSet<_> = (1..=20).map(|turn| flow(&pool, 1, 2600 * S + 124 * S * turn, &mut rng)).collect();
        assert_eq!(kept.len(), 1, "{balance}: each new flow renews the time");
    }
}

// Without it, the parallel first connections of one browser would each get a backend of their own.
#[test]
fn parallel_first_flows_share_a_backend() {
    let (affinities, next) = (Affinities::new(100_000), AtomicUsize::new(0));
    let pool = publish(&affinities, None, Some(("g", 100 * S)), Balance::Random, backends(&[1; 100]));
    let draw = |seed| {
        let mut rng = Rng::new(seed);
        (0..2000).map(|client| flow(&pool, client, S, &mut rng)).collect::<Vec<_>>()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| draw(next.fetch_add(1, Relaxed) as u64))).collect::<Vec<_>>();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    assert_eq!(all.len(), 4);
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

// Without it, each flow of a client would try its dead backend first, and parallel retries would part.
#[test]
fn a_retry_pins_anew_and_others_follow() {
    let (affinities, mut rng) = (Affinities::new(10), Rng::new(3));
    let pool = publish(&affinities, None, Some(("g", 100 * S)), Balance::Maglev, backends(&[1; 50]));
    let dead = flow(&pool, 1, S, &mut rng);
    let tried: Vec<SocketAddr> = dead.into_iter().collect();
    let second = retry(&pool, 1, &tried, S, &mut rng);
    assert_ne!(second, dead);
    assert_eq!(retry(&pool, 1, &tried, S, &mut rng), second, "a parallel flow that failed at the same backend");
    assert_eq!(flow(&pool, 1, S, &mut rng), second);
}

// Without it, a client would stay with a backend that health has set aside, or move when health is wrong about all.
#[test]
fn evidence_against_a_backend_moves_its_clients_once() {
    for balance in [Balance::LeastConn, Balance::Maglev] {
        let (affinities, mut rng) = (Affinities::new(1000), Rng::new(3));
        let with = |old: Option<&Pool>, healthy: [bool; 3]| {
            let specs = (0..).zip(healthy).map(|(n, healthy)| backend(n, 1, healthy)).collect();
            publish(&affinities, old, Some(("g", 100 * S)), balance, specs)
        };
        let pool = with(None, [true; 3]);
        let before: Vec<_> = (0..300).map(|client| flow(&pool, client, S, &mut rng)).collect();
        let pool = with(Some(&pool), [false; 3]);
        assert_eq!(before, (0..300).map(|client| flow(&pool, client, S, &mut rng)).collect::<Vec<_>>());
        let pool = with(Some(&pool), [false, true, true]);
        let after: Vec<_> = (0..300).map(|client| flow(&pool, client, S, &mut rng)).collect();
        assert!(before.iter().zip(&after).all(|(old, new)| (old == new) == (*old != Some(address(0)))));
        let pool = with(Some(&pool), [true; 3]);
        assert_eq!(
            after,
            (0..300).map(|client| flow(&pool, client, S, &mut rng)).collect::<Vec<_>>(),
            "nobody goes back"
        );
    }
}

// Without it, switching affinity off would not spread a client's flows, and switching it on would not gather them.
#[test]
fn affinity_can_be_switched() {
    let (affinities, mut rng) = (Affinities::new(10), Rng::new(3));
    let group = Some(("g", 100 * S));
    let on = publish(&affinities, None, group, Balance::Maglev, backends(&[1; 3]));
    let mut seen = |pool: &Pool| (0..15).map(|_| flow(pool, 1, S, &mut rng)).collect::<HashSet<_>>().len();
    assert_eq!(seen(&on), 1);
    let off = publish(&affinities, Some(&on), None, Balance::Maglev, backends(&[1; 3]));
    assert!(seen(&off) > 1);
    assert_eq!(affinities.len(S), 0);
    // A flow that was accepted before still has the old pool: it must not leave a trace.
    assert!(seen(&on) > 1);
    assert_eq!(affinities.len(S), 0);
    let again = publish(&affinities, Some(&off), group, Balance::Maglev, backends(&[1; 3]));
    assert_eq!(seen(&again), 1);
}

// Without it, a batch that is refused would leave groups behind, and the node's memory would fill with names.
#[test]
fn what_is_refused_is_forgotten() {
    let affinities = Affinities::new(10);
    let affinity = Some(AffinitySpec { group: "g".to_owned(), timeout: S });
    let built = Pool::build(
        PoolSpec { affinity, ..spec(Balance::Maglev, backends(&[1; 3])) },
        None,
        &mut TableCache::new(),
        &affinities,
    );
    assert!(built.is_ok());
    assert_eq!(affinities.groups(), 1);
    affinities.forget_unpublished();
    assert_eq!(affinities.groups(), 0);
    let pool = publish(&affinities, None, Some(("g", S)), Balance::Maglev, backends(&[1; 3]));
    affinities.forget_unpublished();
    assert_eq!(affinities.groups(), 1);
    affinities.leave(Some(&pool));
    assert_eq!(affinities.groups(), 0);
}

// Without it, `explain` would say that a client goes elsewhere than it does; asking must not renew its time.
#[test]
fn a_preview_names_the_pin() {
    let (affinities, mut rng) = (Affinities::new(10), Rng::new(3));
    for balance in [Balance::Maglev, Balance::RoundRobin] {
        let pool = publish(&affinities, None, Some(("g", 100 * S)), balance, backends(&[1; 5]));
        let client: SocketAddr = (Ipv4Addr::from_bits(0xc612_0001), 7).into();
        let chosen = flow(&pool, 1, S, &mut rng);
        for _ in 0..2 {
            let preview = pool.preview(client, 31 * S, &rng);
            assert_eq!(Some(pool.backends[preview[0].index].address), chosen);
            assert_eq!(preview[0].reason, "pinned by session affinity for 70 s more");
        }
        let preview = pool.preview(client, 101 * S, &rng);
        assert!(!preview[0].reason.contains("pinned"), "{}", preview[0].reason);
        let order: Vec<_> = pool.preview(client, S, &rng).iter().filter(|p| p.rank > 0).map(|p| p.index).collect();
        let mut tried = Vec::new();
        for index in order {
            let chosen = pool.pick_for(client, &tried, S, &mut rng).map(|b| b.address);
            assert_eq!(chosen, Some(pool.backends[index].address), "{balance}");
            tried.extend(chosen);
        }
        affinities.leave(Some(&pool));
    }
}

// Without it, a timeout that does not fit would be cut in silence to another one.
#[test]
fn a_timeout_is_kept_whole_or_refused() {
    let (affinities, day) = (Affinities::new(1000), Duration::from_secs(86_400));
    for (timeout, taken) in [(day, true), (30 * day, true), (31 * day, false), (S / 1001, false)] {
        let affinity = Some(AffinitySpec { group: "g".to_owned(), timeout });
        let spec = PoolSpec { affinity, ..spec(Balance::Maglev, backends(&[1; 3])) };
        let built = Pool::build(spec, None, &mut TableCache::new(), &affinities);
        assert_eq!(built.is_ok(), taken, "{timeout:?}");
        let Ok(pool) = built else { continue };
        let (mut rng, almost) = (Rng::new(1), timeout - Duration::from_millis(1));
        let first = flow(&pool, 1, Duration::ZERO, &mut rng);
        assert_eq!(flow(&pool, 1, almost, &mut rng), first);
    }
}
