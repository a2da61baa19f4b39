//! The session table against a model that is too simple to be wrong: a vector in the order of last use.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const UNANSWERED: Duration = Duration::from_millis(30);
const ANSWERED: Duration = Duration::from_millis(120);

#[derive(Clone, Debug)]
enum Step {
    /// A datagram of a client, as a worker serves it: the session is found, or made; a full table loses its oldest.
    Client {
        key: u8,
        slot: u8,
    },
    Answer {
        key: u8,
    },
    End {
        key: u8,
    },
    Wait {
        millis: u8,
    },
    EndSlot {
        slot: u8,
    },
    Rehome {
        key: u8,
        slot: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..12_u8, 0..3_u8).prop_map(|(key, slot)| Step::Client { key, slot }),
        3 => (0..12_u8).prop_map(|key| Step::Answer { key }),
        1 => (0..12_u8).prop_map(|key| Step::End { key }),
        3 => (0..60_u8).prop_map(|millis| Step::Wait { millis }),
        1 => (0..3_u8).prop_map(|slot| Step::EndSlot { slot }),
        2 => (0..12_u8, 0..3_u8).prop_map(|(key, slot)| Step::Rehome { key, slot }),
    ];
    vec(step, 0..120)
}

fn key(number: u8) -> Key {
    // Clients that differ in address, port, family or in what they dialled only.
    let text = ["198.18.0.1:1", "198.18.0.1:2", "198.18.0.2:1", "[::ffff:198.18.0.1]:1", "[fd00::1]:1", "[fd00::2]:1"];
    let dialled = ["198.18.1.1:53", "198.18.1.2:53"][usize::from(number / 6)];
    Key { client: text[usize::from(number % 6)].parse().unwrap(), dialled: dialled.parse().unwrap() }
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    key: u8,
    slot: u8,
    used: Duration,
    answered: bool,
}

/// The table and its model, and the time that both are told.
struct Pair {
    table: Sessions<u8>,
    model: Vec<Known>,
    now: Duration,
}

impl Pair {
    fn place(&self, key: u8) -> Option<usize> {
        self.model.iter().position(|known| known.key == key)
    }

    fn client(&mut self, number: u8, slot: u8, limit: usize) {
        if let Some(id) = self.table.find(&key(number)) {
            self.table.touch(id, self.now, false);
            let mut known = self.model.remove(self.place(number).unwrap());
            known.used = self.now;
            return self.model.push(known);
        }
        if self.table.len() >= limit {
            let oldest = self.table.oldest().unwrap();
            let (_, gone) = self.table.remove(oldest).unwrap();
            assert_eq!(gone, self.model.remove(0).key, "the one that was idle longest makes room");
        }
        let (_, earlier) = self.table.insert(key(number), slot.into(), self.now, number);
        assert_eq!(earlier, None);
        self.model.push(Known { key: number, slot, used: self.now, answered: false });
    }

    fn answer(&mut self, number: u8) {
        let found = self.table.find(&key(number));
        assert_eq!(found.is_some(), self.place(number).is_some());
        if let Some(id) = found {
            self.table.touch(id, self.now, true);
            let mut known = self.model.remove(self.place(number).unwrap());
            (known.used, known.answered) = (self.now, true);
            self.model.push(known);
        }
    }

    fn end(&mut self, number: u8) {
        if let Some(id) = self.table.find(&key(number)) {
            assert_eq!(self.table.remove(id), Some((key(number), number)));
            assert_eq!(self.table.remove(id), None, "an old name must not end a new session");
            self.model.remove(self.place(number).unwrap());
        }
    }

    fn end_slot(&mut self, slot: u8) {
        let mut found: Vec<u8> =
            self.table.of_slot(slot.into()).into_iter().map(|id| self.table.remove(id).unwrap().1).collect();
        let mut wanted: Vec<u8> = self.model.iter().filter(|known| known.slot == slot).map(|known| known.key).collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted);
        self.model.retain(|known| known.slot != slot);
    }

    fn rehome(&mut self, number: u8, slot: u8) {
        if let Some(id) = self.table.find(&key(number)) {
            self.table.change_slot(id, slot.into());
            let place = self.place(number).unwrap();
            self.model[place].slot = slot;
        }
    }

    fn wait(&mut self, millis: u8) {
        self.now += Duration::from_millis(millis.into());
        let idle = |known: &Known| if known.answered { ANSWERED } else { UNANSWERED };
        while let Some(id) = self.table.ended(self.now) {
            let (_, gone) = self.table.remove(id).unwrap();
            let known = self.model.remove(self.place(gone).unwrap());
            assert!(known.used + idle(&known) <= self.now, "ended too early: {known:?} at {:?}", self.now);
        }
        let next = self.model.iter().map(|known| known.used + idle(known)).min();
        assert!(next.is_none_or(|next| next > self.now), "a session was not ended");
        assert_eq!(self.table.next_end(), next);
    }

    fn compare(&self) {
        assert_eq!((self.table.len(), self.table.by_key.len()), (self.model.len(), self.model.len()));
        for known in &self.model {
            let id = self.table.find(&key(known.key)).unwrap();
            assert_eq!((self.table.get(id), self.table.used(id)), (Some(&known.key), Some(known.used)));
        }
        let oldest = self.table.oldest().map(|id| self.table.used(id).unwrap());
        assert_eq!(oldest, self.model.first().map(|known| known.used));
        let odd = self.table.oldest_where(3, |key| key % 2 == 1).into_iter();
        let wanted = self.model.iter().take(3).map(|known| known.key).filter(|key| key % 2 == 1);
        assert!(odd.map(|id| self.table.get(id).copied().unwrap()).eq(wanted));
        let slots = self.model.iter().map(|known| known.slot).collect::<BTreeSet<_>>();
        assert_eq!(self.table.by_slot.len(), slots.len(), "an empty slot is forgotten");
        for slot in slots {
            let mates = self.table.of_slot(slot.into()).into_iter().map(|id| *self.table.get(id).unwrap());
            let wanted = self.model.iter().filter(|known| known.slot == slot).map(|known| known.key);
            assert_eq!(mates.collect::<BTreeSet<_>>(), wanted.collect(), "the sessions of {slot}");
        }
    }
}

proptest! {
    /// Two sessions of one client would send its datagrams to two backends; a bound that does not hold is a leak; and
    /// ending another one than the longest idle would cut a client that is being served.
    #[test]
    fn the_table_is_its_model(steps in steps(), limit in 1..8_usize, secret: u64) {
        let table = Sessions::new(UNANSWERED, ANSWERED, secret);
        let mut pair = Pair { table, model: Vec::new(), now: Duration::ZERO };
        for step in steps {
            // Time never stands still, so that the order of use is unambiguous.
            pair.now += Duration::from_nanos(1);
            match step {
                Step::Client { key, slot } => pair.client(key, slot, limit),
                Step::Answer { key } => pair.answer(key),
                Step::End { key } => pair.end(key),
                Step::Wait { millis } => pair.wait(millis),
                Step::EndSlot { slot } => pair.end_slot(slot),
                Step::Rehome { key, slot } => pair.rehome(key, slot),
            }
            pair.compare();
            prop_assert!(pair.table.len() <= limit);
        }
        let left = pair.table.drain().len();
        prop_assert_eq!(left, pair.model.len());
        prop_assert_eq!((pair.table.oldest(), pair.table.next_end(), pair.table.len()), (None, None, 0));
    }
}

/// A key that is used again must end what was there: else both would answer the client.
#[test]
fn a_second_session_of_a_key_replaces_the_first() {
    let mut table = Sessions::new(UNANSWERED, ANSWERED, 7);
    let (first, none) = table.insert(key(0), 0, Duration::ZERO, 'a');
    let (second, earlier) = table.insert(key(0), 1, Duration::ZERO, 'b');
    assert_eq!((none, earlier, table.len()), (None, Some('a'), 1));
    assert_eq!((table.get(first), table.get(second), table.key(second)), (None, Some(&'b'), Some(key(0))));
    assert_eq!((table.of_slot(0), table.of_slot(1)), (Vec::new(), vec![second]));
    *table.get_mut(second).unwrap() = 'c';
    assert_eq!(table.iter().map(|(_, &value)| value).collect::<String>(), "c");
    table.touch(first, Duration::from_secs(1), true); // nobody: nothing happens
    assert_eq!(table.used(second), Some(Duration::ZERO));
}
