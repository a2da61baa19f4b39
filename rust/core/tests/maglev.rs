//! Shares, disruption and sharing of Maglev tables.

mod common;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use spliceway_core::maglev::{MAX_BACKENDS, Member, Table, TableCache};
use spliceway_core::pool::{Balance, Pool};

use common::{backends, keys};

fn members() -> impl Strategy<Value = Vec<Member>> {
    let light = prop_oneof![1..=1u16, 1..=10u16, 1..=1000u16, 1..=u16::MAX];
    light.prop_flat_map(|most| {
        btree_set(any::<u64>(), 2..60).prop_flat_map(move |hashes| {
            let count = hashes.len();
            (Just(hashes), vec(1..=most, count)).prop_map(|(hashes, weights)| {
                hashes.into_iter().zip(weights).map(|(hash, weight)| Member { hash, weight }).collect()
            })
        })
    })
}

fn slots_of(table: &Table, count: usize) -> Vec<usize> {
    let mut counts = vec![0; count];
    table.slots().for_each(|index| counts[index] += 1);
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // Without it, a backend of twice the weight would not get twice the flows, or a light one none at all.
    #[test]
    fn shares_follow_weights_to_a_slot(members in members()) {
        let table = Table::build(&members);
        let total: f64 = members.iter().map(|m| f64::from(m.weight)).sum();
        let (size, counts) = (table.size() as f64, slots_of(&table, members.len()));
        // One slot for rounding; what lifts the very light ones to one slot is taken from the others in proportion.
        let lifted = members.iter().filter(|m| size * f64::from(m.weight) < total).count() as f64;
        for (member, count) in members.iter().zip(counts) {
            let ideal = size * f64::from(member.weight) / total;
            prop_assert!(count >= 1);
            let slack = 1.0 + lifted * ideal / size + f64::from(u8::from(ideal < 1.0));
            prop_assert!((count as f64 - ideal).abs() <= slack, "{count} slots of {size}, ideal {ideal}");
        }
    }

    // Without it, one Pod that goes away would move clients of all the others.
    #[test]
    fn one_that_leaves_moves_few_of_the_others(members in members(), gone in any::<prop::sample::Index>()) {
        let gone = gone.index(members.len());
        let mut fewer = members.clone();
        fewer.remove(gone);
        let (before, after) = (Table::build(&members), Table::build(&fewer));
        prop_assume!(before.size() == after.size());
        let name = |index: usize| index - usize::from(index > gone);
        let kept = before.slots().zip(after.slots()).filter(|&(b, a)| b != gone && name(b) == a).count();
        let others = before.size() - slots_of(&before, members.len())[gone];
        let moved = (others - kept) as f64 / others as f64;
        let share = 1.0 - others as f64 / before.size() as f64;
        prop_assert!(moved <= 0.10 + 0.5 * share, "{moved} of the others' slots moved; its share was {share}");
    }
}

// Without it, the mean disruption could creep up to what a plain hash does: most clients move.
#[test]
fn mean_disruption_with_equal_weights_is_a_few_percent() {
    let mut cache = TableCache::new();
    let all: Vec<Member> = (0..20).map(|n| Member { hash: spliceway_core::hash::mix(n, 9), weight: 1 }).collect();
    let mut all = all;
    all.sort_unstable();
    let before = cache.table(&all);
    let mut moved = 0;
    for gone in 0..all.len() {
        let mut fewer = all.clone();
        fewer.remove(gone);
        let after = cache.table(&fewer);
        assert_eq!(before.size(), after.size());
        let name = |index: usize| index - usize::from(index > gone);
        moved += before.slots().zip(after.slots()).filter(|&(b, a)| b != gone && name(b) != a).count();
    }
    let mean = moved as f64 / (before.size() * all.len()) as f64;
    assert!(mean < 0.05, "{mean} of the other backends' slots moved on average");
}

// Without it, nodes that list endpoints in another order would send the same client elsewhere.
#[test]
fn the_order_of_input_does_not_matter() {
    let forward = common::pool(Balance::Maglev, backends(&[1, 2, 3, 4, 5, 6, 7]));
    let mut reversed = backends(&[1, 2, 3, 4, 5, 6, 7]);
    reversed.reverse();
    let reversed = common::pool(Balance::Maglev, reversed);
    let mut rng = spliceway_core::rng::Rng::new(0);
    for key in keys(1000) {
        let choice = |pool: &Pool, rng: &mut _| pool.pick(key, &[], rng).map(|b| b.address);
        assert_eq!(choice(&forward, &mut rng), choice(&reversed, &mut rng));
    }
}

// Without it, Services with many ports would cost a table for each port, and tables of gone pools would pile up.
#[test]
fn equal_members_share_a_table_and_dead_tables_are_swept() {
    let mut cache = TableCache::new();
    let member = |hash| Member { hash, weight: 1 };
    let (one, same, other) = (
        cache.table(&[member(1), member(2)]),
        cache.table(&[member(1), member(2)]),
        cache.table(&[member(1), Member { hash: 2, weight: 2 }]),
    );
    assert!(std::sync::Arc::ptr_eq(&one, &same));
    assert!(!std::sync::Arc::ptr_eq(&one, &other));
    for hash in 3..1000 {
        drop(cache.table(&[member(1), member(hash)]));
    }
    assert!(cache.len() < 200, "{} entries for 2 live tables", cache.len());
    assert!(std::sync::Arc::ptr_eq(&one, &cache.table(&[member(1), member(2)])), "a live table was swept");
}

// Without it, a very large or very uneven pool could hang, panic or starve a backend.
#[test]
fn extremes_are_built_and_complete() {
    let even = |count: u64| (0..count).map(|hash| Member { hash, weight: 1 }).collect::<Vec<_>>();
    let mut uneven = even(3000);
    uneven[17].weight = u16::MAX;
    for members in [even(2), even(16), even(17), even(256), even(257), even(40_000), even(MAX_BACKENDS as u64), uneven]
    {
        let table = Table::build(&members);
        let counts = slots_of(&table, members.len());
        assert_eq!(counts.iter().sum::<usize>(), table.size());
        assert!(counts.iter().all(|&count| count > 0), "a backend of {} got no slot", members.len());
    }
}
