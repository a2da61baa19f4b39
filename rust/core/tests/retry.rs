//! The retry budget and the attempts of one flow.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use spliceway_core::affinity::Affinities;
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{Balance, Pool, PoolSpec};
use spliceway_core::retry::{Budget, Dial, Next, Reason, RetryPolicy};
use spliceway_core::rng::Rng;

use common::{backend, backends, build, client, spec};

const MS: Duration = Duration::from_millis(1);

fn policy(ratio: f32, reserve: u32) -> RetryPolicy {
    RetryPolicy { budget_ratio: ratio, budget_reserve: reserve, ..RetryPolicy::default() }
}

#[derive(Clone, Debug)]
enum Act {
    Deposit(u32),
    Take(u32),
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    vec(
        prop_oneof![
            (1..200u32).prop_map(Act::Deposit),
            (1..200u32).prop_map(Act::Take),
            (0..20_000u64).prop_map(Act::Wait)
        ],
        1..60,
    )
}

proptest! {
    // Without it, a budget could run over (a retry storm after a quiet hour) or wrap below zero (no bound at all).
    #[test]
    fn a_budget_stays_within_its_bounds(ratio in 0.0..5.0f32, reserve in 0..200u32, acts in acts()) {
        let policy = policy(ratio, reserve);
        let (budget, mut now) = (Budget::new(&policy), Duration::ZERO);
        let (mut deposits, mut taken) = (0u64, 0u64);
        for act in acts {
            match act {
                Act::Deposit(n) => (0..n).for_each(|_| { budget.deposit(&policy); deposits += 1; }),
                Act::Take(n) => taken += (0..n).filter(|_| budget.take(&policy, now)).count() as u64,
                Act::Wait(ms) => now += MS * ms as u32,
            }
            prop_assert!(budget.tokens() <= Budget::cap(&policy));
            let by_time = f64::from(reserve) * now.as_secs_f64() / 10.0;
            let most = f64::from(reserve) + deposits as f64 * f64::from(ratio) + by_time;
            prop_assert!(taken as f64 <= most + 0.001, "{taken} taken of {most}");
        }
    }

    // Without it, a flow could be tried for ever, past its deadline, or twice at a backend that just failed.
    #[test]
    fn attempts_end_in_time_and_never_repeat_unless_alone(
        balance in select(&Balance::ALL), count in 0..20u32, tries in 1..=16u8, timeout in 1..500u32, deadline in 1..2000u32,
        took in vec(0.0..=1.0f64, 16), key in any::<u64>(), start in 0..1_000_000u32,
    ) {
        let retry = RetryPolicy { tries, connect_timeout: MS * timeout, deadline: MS * deadline, ..RetryPolicy::default() };
        let pool = build(PoolSpec { retry, ..spec(balance, (0..count).map(|n| backend(n, 1, n % 3 > 0)).collect()) });
        let started = MS * start;
        let (mut dial, mut now, mut rng) = (Dial::new(started), started, Rng::new(key));
        let mut dialled = Vec::new();
        let reason = loop {
            match dial.next(&pool, client(key), now, &mut rng) {
                Next::GiveUp(reason) => break reason,
                Next::Try { backend, timeout, after } => {
                    prop_assert!(!timeout.is_zero());
                    prop_assert!(count == 1 || !dialled.contains(&backend.address));
                    prop_assert_eq!(after.is_zero(), count > 1 || dialled.is_empty());
                    dialled.push(backend.address);
                    now += after + timeout.mul_f64(took[dialled.len() - 1]);
                    prop_assert!(now <= started + pool.retry.deadline);
                }
            }
        };
        prop_assert_eq!(usize::from(dial.tries()), dialled.len());
        prop_assert!(dialled.len() <= tries.into());
        match reason {
            Reason::NoBackend => prop_assert_eq!(count, 0),
            Reason::AllTried => prop_assert!(count > 1 && dialled.len() == count as usize),
            Reason::TriesUsed => prop_assert_eq!(dialled.len(), usize::from(tries)),
            Reason::Deadline => prop_assert!(now + Duration::from_millis(25 << dialled.len()) > started + MS * deadline),
            Reason::Budget => prop_assert!(false, "the reserve is larger than 15 retries"),
            Reason::NotPermitted => prop_assert!(false, "this is said by the caller only"),
        }
    }
}

// Without it, workers that retry at the same time would spend a token twice.
#[test]
fn a_budget_is_exact_between_threads() {
    let policy = policy(0.5, 1000);
    let (budget, taken) = (Budget::new(&policy), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    budget.deposit(&policy);
                    if budget.take(&policy, Duration::ZERO) {
                        taken.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    // 1000 at the start and 8000 halves; the cap of 10,000 was never near.
    assert_eq!(taken.load(Relaxed) + budget.tokens(), 5000);
}

// Without it, two workers that refill at the same time would double the allowance by time.
#[test]
fn the_refill_by_time_happens_once() {
    let policy = policy(0.0, 1000);
    let (budget, taken) = (Budget::new(&policy), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for ms in 0..5000 {
                    if budget.take(&policy, MS * ms) {
                        taken.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    let taken = taken.load(Relaxed);
    assert!(taken <= 1500, "{taken} taken; 1000 at the start and 500 in 5 s are allowed");
    assert!(taken >= 1000);
}

// Without it, a service with a flow an hour would never be saved again after one outage.
#[test]
fn a_quiet_service_recovers() {
    let policy = policy(0.1, 20);
    let budget = Budget::new(&policy);
    assert_eq!((0..50).filter(|_| budget.take(&policy, MS)).count(), 20);
    assert!(!budget.take(&policy, MS * 2));
    assert!(budget.take(&policy, MS * 510), "one token comes back each half second");
    assert_eq!((0..50).filter(|_| budget.take(&policy, MS * 60_000)).count(), 20);
}

// Without it, refills in small steps would be rounded away under constant demand.
#[test]
fn a_refill_in_small_steps_adds_up() {
    let policy = policy(0.0, 3);
    let budget = Budget::new(&policy);
    let taken = (0..40_000).filter(|&ms| budget.take(&policy, MS * ms)).count();
    assert!((14..=15).contains(&taken), "{taken}: 3 at the start, 12 in 40 s");
}

fn attempts(pool: &Pool, now: impl Fn(usize) -> Duration) -> (Vec<(Duration, Duration)>, Reason) {
    let (mut dial, mut rng, mut list) = (Dial::new(Duration::ZERO), Rng::new(1), Vec::new());
    loop {
        match dial.next(pool, client(7), now(list.len()), &mut rng) {
            Next::Try { timeout, after, .. } => list.push((after, timeout)),
            Next::GiveUp(reason) => return (list, reason),
        }
    }
}

// Without it, a client whose answers take another way would be refused by a policy of one try, or by an empty budget, or its
// backend would be dialled without end.
#[test]
fn a_backend_is_dialled_again_whatever_tries_and_budget_say() {
    let retry = RetryPolicy { tries: 1, budget_ratio: 0.0, budget_reserve: 0, ..RetryPolicy::default() };
    let pool = build(PoolSpec { retry, ..spec(Balance::Maglev, backends(&[1; 3])) });
    let (mut dial, mut rng) = (Dial::new(MS), Rng::new(1));
    assert_eq!(dial.again(&pool, MS), None, "nothing was dialled yet");
    let Next::Try { timeout, .. } = dial.next(&pool, client(7), MS, &mut rng) else { panic!("a first try") };
    assert_eq!(timeout, 900 * MS);
    assert_eq!(pool.retry.kept_source_wait(timeout), 100 * MS);
    assert_eq!(pool.retry.kept_source_wait(30 * MS), 15 * MS, "half is left for the second dial");
    assert_eq!(dial.again(&pool, 101 * MS), Some(800 * MS));
    assert_eq!(dial.tries(), 2);
    assert_eq!(dial.again(&pool, 901 * MS), None, "the deadline passed");
    assert!(matches!(dial.next(&pool, client(7), 101 * MS, &mut rng), Next::GiveUp(Reason::TriesUsed)));
    let Next::Try { backend, .. } = Dial::new(MS).next(&pool, client(7), MS, &mut rng) else { panic!("a first try") };
    let mut dial = Dial::new(MS);
    dial.next(&pool, client(7), MS, &mut rng);
    let others = backends(&[1; 3]).into_iter().filter(|other| other.address != backend.address).collect();
    assert_eq!(dial.again(&build(spec(Balance::Maglev, others)), 2 * MS), None, "it has left the pool");
}

// Without it, a second dial of the same backend would be taken for a retry: the next one would wait, or the backend would be
// picked a third time.
#[test]
fn another_backend_follows_the_second_dial_at_once() {
    let pool = build(spec(Balance::Maglev, backends(&[1; 2])));
    let (mut dial, mut rng) = (Dial::new(MS), Rng::new(1));
    let Next::Try { backend: first, .. } = dial.next(&pool, client(7), MS, &mut rng) else { panic!("a first try") };
    assert_eq!(dial.again(&pool, 101 * MS), Some(250 * MS));
    let Next::Try { backend, after, .. } = dial.next(&pool, client(7), 351 * MS, &mut rng) else { panic!("a retry") };
    assert!(backend.address != first.address && after.is_zero());
    assert_eq!((dial.tries(), pool.state.budget.tokens()), (3, 100), "one token came, and one was taken");
}

// Without it, a pool with one backend that restarts would fail its clients, or be hammered.
#[test]
fn the_only_backend_is_tried_again_after_growing_waits() {
    let only = build(spec(Balance::Maglev, vec![backend(1, 1, true), backend(2, 0, true)]));
    let (list, reason) = attempts(&only, |_| MS * 100);
    let waits: Vec<_> = list.iter().map(|(after, _)| after.as_millis()).collect();
    assert_eq!((waits, reason), (vec![0, 25, 50, 100], Reason::TriesUsed));
    let (list, reason) = attempts(&only, |made| MS * if made < 2 { 0 } else { 850 });
    assert_eq!((list.len(), reason), (2, Reason::Deadline), "a wait of 50 ms leaves no time to dial");
}

// Without it, the last chance of a flow would be cut short although time was left.
#[test]
fn the_last_try_gets_all_that_is_left() {
    let two = build(spec(Balance::Maglev, backends(&[1, 1])));
    let (list, reason) = attempts(&two, |made| MS * 250 * made as u32);
    assert_eq!((list, reason), (vec![(Duration::ZERO, MS * 250), (Duration::ZERO, MS * 650)], Reason::AllTried));
    let retry = RetryPolicy { tries: 2, ..RetryPolicy::default() };
    let many = build(PoolSpec { retry, ..spec(Balance::Random, backends(&[1; 9])) });
    let (list, reason) = attempts(&many, |made| MS * 10 * made as u32);
    assert_eq!((list, reason), (vec![(Duration::ZERO, MS * 250), (Duration::ZERO, MS * 890)], Reason::TriesUsed));
}

// Without it, an outage of all backends would multiply the load by the number of tries.
#[test]
fn an_empty_budget_ends_a_flow_but_never_refuses_a_first_try() {
    let retry = RetryPolicy { budget_reserve: 2, budget_ratio: 0.0, ..RetryPolicy::default() };
    let pool = build(PoolSpec { retry, ..spec(Balance::Maglev, backends(&[1; 5])) });
    let outcome = || {
        let (list, reason) = attempts(&pool, |_| Duration::ZERO);
        (list.len(), reason)
    };
    assert_eq!(outcome(), (3, Reason::Budget));
    assert_eq!(outcome(), (1, Reason::Budget));
}

// Without it, a flow in retry would go on with backends that a newer generation has removed, or repeat one.
#[test]
fn a_flow_follows_new_generations() -> Result<(), Box<dyn std::error::Error>> {
    let old = build(spec(Balance::Maglev, backends(&[1, 1, 1])));
    let (mut dial, mut rng) = (Dial::new(Duration::ZERO), Rng::new(1));
    let Next::Try { backend: first, .. } = dial.next(&old, client(7), MS, &mut rng) else {
        return Err("gave up".into());
    };
    let mut specs = backends(&[1, 1, 1, 1, 1]);
    specs.retain(|b| b.address == first.address || b.address == common::address(4));
    let new = Pool::build(spec(Balance::Maglev, specs), Some(&old), &mut TableCache::new(), &Affinities::new(1000))?;
    let Next::Try { backend: second, .. } = dial.next(&new, client(7), MS * 2, &mut rng) else {
        return Err("gave up".into());
    };
    assert_eq!(second.address, common::address(4));
    let empty =
        Pool::build(spec(Balance::Maglev, Vec::new()), Some(&new), &mut TableCache::new(), &Affinities::new(1000))?;
    assert!(matches!(dial.next(&empty, client(7), MS * 3, &mut rng), Next::GiveUp(Reason::NoBackend)));
    assert!(Arc::ptr_eq(&old.state, &empty.state));
    Ok(())
}
