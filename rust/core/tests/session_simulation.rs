//! Seeded simulation of the session machine: thousands of connections between misbehaving peers on a virtual clock.
//!
//! `SPLICEWAY_SEED=17 cargo test -p spliceway-core --test session_simulation` replays one seed.

mod common;
mod simulation;

use std::collections::BTreeMap;
use std::time::Duration;

use spliceway_core::pool::{Balance, PoolSpec};
use spliceway_core::retry::RetryPolicy;
use spliceway_core::rng::Rng;

use common::{backends, build, spec};
use simulation::relay::Relay;

const SEEDS: u64 = 256;
const STEPS: usize = 2000;
/// After so many steps of one connection its peers come to their end; it must follow within as many.
const MISCHIEF: usize = 300;

/// Says which seed to replay when a check fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SPLICEWAY_SEED={}", self.0);
        }
    }
}

/// Runs connections one after the other, and counts how they ended.
fn simulate(seed: u64, ends: &mut BTreeMap<String, usize>) {
    let replay = Replay(seed);
    let mut rng = Rng::new(seed);
    let retry = RetryPolicy { budget_reserve: 1000, replay: true, ..RetryPolicy::default() };
    let pool = build(PoolSpec { retry, ..spec(Balance::Maglev, backends(&[1, 1, 1])) });
    let (mut steps, mut now) = (0, Duration::from_secs(1));
    while steps < STEPS {
        let mut relay = Relay::new(&pool, now, &mut rng);
        let mut age = 0;
        while relay.end.is_none() {
            assert!(age < 2 * MISCHIEF, "a connection between peers that are done never ends");
            relay.step(age > MISCHIEF, &mut rng);
            age += 1;
        }
        steps += age;
        now = relay.now;
        *ends.entry(format!("{:?}", relay.end)).or_default() += 1;
        *ends.entry("redials".to_owned()).or_default() += relay.redials;
    }
    drop(replay);
}

// Without it, bytes could be lost, doubled or mixed up, an end or a reset hidden from the other side, a request repeated
// that was answered already, a worker spin, or a connection hang for ever.
#[test]
fn sessions_keep_their_promises() {
    let mut ends = BTreeMap::new();
    match std::env::var("SPLICEWAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => simulate(seed, &mut ends),
        None => {
            (0..SEEDS).for_each(|seed| simulate(seed, &mut ends));
            // A simulation that never goes there would prove nothing.
            for end in ["Closed", "ClientReset", "BackendReset", "Drained", "NoBackend"] {
                let times = ends.get(&format!("Some({end})")).copied().unwrap_or_default();
                assert!(times >= 100, "{end} only {times} times: {ends:?}");
            }
            assert!(ends["redials"] >= 100, "{ends:?}");
        }
    }
}
