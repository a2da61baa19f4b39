//! Building pools: what is refused, what is carried over, and what draining sees.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use spliceway_core::affinity::Affinities;
use spliceway_core::maglev::TableCache;
use spliceway_core::pool::{BackendSpec, BackendState, Balance, Pool, PoolSpec};
use spliceway_core::retry::RetryPolicy;
use spliceway_core::rng::Rng;

use common::{address, backend, backends, spec};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn refusal(spec: PoolSpec) -> String {
    Pool::build(spec, None, &mut TableCache::new(), &Affinities::new(1000))
        .map_or_else(|e| e.to_string(), |_| "accepted".to_owned())
}

// Without it, one wrong number of a user would give no message, or one that does not say where to look.
#[test]
fn refusals_name_pool_and_field() -> Outcome {
    let with = |address: &str| -> Result<String, std::net::AddrParseError> {
        let bad = BackendSpec { address: address.parse()?, weight: 1, healthy: true };
        Ok(refusal(spec(Balance::Maglev, vec![backend(1, 1, true), bad])))
    };
    assert_eq!(with("10.0.0.9:0")?, "pool default/shop:http: backend 10.0.0.9:0: port must be 1 to 65535, not 0");
    for undialable in
        ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"]
    {
        let message = with(undialable)?;
        assert!(message.contains(undialable) && message.contains("cannot be dialled"), "{message}");
    }
    let conflict = spec(Balance::Maglev, vec![backend(1, 1, true), backend(1, 2, true)]);
    assert!(refusal(conflict).contains("10.0.0.1:8080 is given twice with different weight"));
    let many = (0..65_536).map(|n| backend(n, 1, true)).collect();
    assert!(refusal(spec(Balance::LeastConn, many)).contains("65536 backends are more than 65535"));
    let nameless = PoolSpec { name: String::new(), ..spec(Balance::Maglev, Vec::new()) };
    assert!(refusal(nameless).contains("empty name"));
    Ok(())
}

// Without it, a policy that can never dial, or never end, would be taken.
#[test]
fn policies_out_of_range_are_refused() {
    let seconds = Duration::from_secs_f64;
    let ok = RetryPolicy::default;
    let refused = [
        ("tries", RetryPolicy { tries: 0, ..ok() }),
        ("tries", RetryPolicy { tries: 17, ..ok() }),
        ("connect_timeout", RetryPolicy { connect_timeout: Duration::ZERO, ..ok() }),
        ("connect_timeout", RetryPolicy { connect_timeout: seconds(3601.0), ..ok() }),
        ("deadline", RetryPolicy { deadline: Duration::ZERO, ..ok() }),
        ("deadline", RetryPolicy { deadline: Duration::MAX, ..ok() }),
        ("budget_ratio", RetryPolicy { budget_ratio: -0.1, ..ok() }),
        ("budget_ratio", RetryPolicy { budget_ratio: f32::NAN, ..ok() }),
        ("budget_ratio", RetryPolicy { budget_ratio: f32::INFINITY, ..ok() }),
    ];
    for (field, retry) in refused {
        let message = refusal(PoolSpec { retry, ..spec(Balance::Maglev, Vec::new()) });
        assert!(message.starts_with(&format!("pool default/shop:http: {field} must be ")), "{message}");
    }
    let widest =
        RetryPolicy { tries: 16, deadline: seconds(3600.0), budget_ratio: 0.0, budget_reserve: u32::MAX, ..ok() };
    assert_eq!(refusal(PoolSpec { retry: widest, ..spec(Balance::Maglev, Vec::new()) }), "accepted");
}

// Without it, one endpoint in two slices would get a double share, or stop all updates.
#[test]
fn backends_given_twice_alike_are_one() -> Outcome {
    let mapped = BackendSpec { address: "[::ffff:10.0.0.1]:8080".parse()?, weight: 1, healthy: true };
    let specs = vec![backend(1, 1, true), backend(2, 1, true), backend(1, 1, true), mapped];
    let pool = Pool::build(spec(Balance::Random, specs), None, &mut TableCache::new(), &Affinities::new(1000))?;
    let mut found: Vec<_> = pool.backends.iter().map(|b| b.address).collect();
    found.sort();
    assert_eq!(found, [address(1), address(2)]);
    Ok(())
}

// Without it, counters would start again, or loads and budgets be forgotten, at every change of the endpoints.
#[test]
fn what_stays_keeps_its_state_and_what_left_is_remembered() -> Outcome {
    let mut tables = TableCache::new();
    let mut build = |specs, previous: Option<&Pool>| {
        Pool::build(spec(Balance::Maglev, specs), previous, &mut tables, &Affinities::new(1000))
    };
    let first = build(backends(&[1, 1, 1]), None)?;
    let state = |pool: &Pool, n| pool.backends.iter().find(|b| b.address == address(n)).map(|b| Arc::clone(&b.state));
    let busy = state(&first, 0).ok_or("missing")?;
    busy.active.store(3, Relaxed);
    first.state.flows.store(7, Relaxed);

    let second = build(vec![backend(2, 5, false)], Some(&first))?;
    assert!(Arc::ptr_eq(&first.state, &second.state));
    assert!(state(&first, 2).zip(state(&second, 2)).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b)));
    assert_eq!(second.leaving.iter().map(|s| s.address).collect::<Vec<_>>(), [busy.address]);

    let third = build(Vec::new(), Some(&second))?;
    assert_eq!(third.leaving.iter().map(|s| s.address).collect::<Vec<_>>(), [busy.address]);
    let back = build(backends(&[1]), Some(&third))?;
    assert!(back.leaving.is_empty());
    assert!(state(&back, 0).is_some_and(|s| Arc::ptr_eq(&s, &busy)), "it came back with its flows");

    busy.active.store(0, Relaxed);
    assert!(build(Vec::new(), Some(&second))?.leaving.is_empty(), "its last flow ended");
    Ok(())
}

// Without it, flows to a removed Pod would be cut at once, never, or still after the Pod is back.
#[test]
fn drain_deadlines_start_once_and_are_lifted_when_a_backend_returns() -> Outcome {
    let mut tables = TableCache::new();
    let mut build = |specs, previous: Option<&Pool>| {
        Pool::build(spec(Balance::P2c, specs), previous, &mut tables, &Affinities::new(1000))
    };
    let first = build(backends(&[1, 1]), None)?;
    first.start_drains(None, Duration::from_secs(1));
    let gone = &first.backends[0];
    let (address, stays) = (gone.address, first.backends[1].address);
    gone.active.store(1, Relaxed);
    let only = |address| vec![BackendSpec { address, weight: 1, healthy: true }];

    let second = build(only(stays), Some(&first))?;
    assert_eq!(gone.drain_deadline(), None, "building alone changes nothing");
    second.start_drains(Some(&first), Duration::from_secs(10));
    assert_eq!(gone.drain_deadline(), Some(Duration::from_secs(40)));
    let third = build(only(stays), Some(&second))?;
    third.start_drains(Some(&second), Duration::from_secs(20));
    assert_eq!(gone.drain_deadline(), Some(Duration::from_secs(40)), "a later generation does not prolong it");
    assert_eq!(third.backends[0].drain_deadline(), None);

    let back = build(only(address), Some(&third))?;
    back.start_drains(Some(&third), Duration::from_secs(30));
    assert_eq!(gone.drain_deadline(), None);
    Ok(())
}

// Without it, `explain` would not say why a backend is not used.
#[test]
fn previews_say_why() -> Outcome {
    let specs = vec![backend(0, 1, true), backend(1, 1, false), backend(2, 0, true), backend(3, 1, true)];
    for balance in Balance::ALL {
        let pool = Pool::build(spec(balance, specs.clone()), None, &mut TableCache::new(), &Affinities::new(1000))?;
        let preview = pool.preview(common::client(1), Duration::ZERO, &Rng::new(1));
        let of = |n| preview.iter().find(|p| pool.backends[p.index].address == address(n)).ok_or("missing");
        assert_eq!((of(1)?.rank, of(2)?.rank), (3, 0), "{balance}");
        assert!(of(1)?.reason.contains("unhealthy"), "{}", of(1)?.reason);
        assert!(of(2)?.reason.contains("weight 0"), "{}", of(2)?.reason);
        assert!(preview.iter().any(|p| p.rank == 1 && !p.reason.contains("retry")));
    }
    let once = PoolSpec { retry: RetryPolicy { tries: 1, ..RetryPolicy::default() }, ..spec(Balance::Maglev, specs) };
    let pool = Pool::build(once, None, &mut TableCache::new(), &Affinities::new(1000))?;
    assert_eq!(
        pool.preview(common::client(1), Duration::ZERO, &Rng::new(1))
            .iter()
            .filter(|p| p.reason == "not tried: a flow has 1 try")
            .count(),
        2
    );
    Ok(())
}

// Without it, the names in manifests and in the engine would drift apart.
#[test]
fn balance_names_round_trip() {
    for balance in Balance::ALL {
        assert_eq!(balance.to_string().parse(), Ok(balance));
    }
    let unknown = "fastest".parse::<Balance>().map_or_else(|e| e.to_string(), |b| b.to_string());
    assert!(unknown.contains("maglev, random, round-robin, least-conn, p2c") && unknown.contains("fastest"));
}

// A deadline that came early or wrapped around would cut clients of a Pod that still serves them.
#[test]
fn drain_deadlines_are_rounded_up_and_bounded() {
    let ends = |deadline| {
        let state = BackendState::new(([198, 18, 0, 1], 80).into());
        state.start_drain(deadline);
        state.drain_deadline()
    };
    let millis = Duration::from_millis;
    assert_eq!(ends(Duration::ZERO), Some(millis(64)), "0 stands for never");
    assert_eq!(ends(millis(64)), Some(millis(64)));
    assert_eq!(ends(millis(65)), Some(millis(128)));
    assert_eq!(ends(Duration::MAX), Some(millis(u64::from(u32::MAX) * 64)));
}
