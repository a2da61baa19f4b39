//! Who talks with whom: sessions by client and address dialled, in the order in which they were used last. Pure: the time
//! is an argument. Every call takes constant time, but for those that tell many sessions.

use std::collections::HashMap;
use std::time::Duration;

use slab::Slab;

use super::key::{Key, Keyed};

/// No entry.
const NONE: u32 = u32::MAX;

/// Names a session of one worker. The serial tells it from an earlier one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionId {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

/// A place in a doubly linked list.
#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

/// A list in the order of last use: each session is at the end when it is used.
#[derive(Clone, Copy, Debug)]
struct Ages {
    oldest: u32,
    newest: u32,
    /// How long a session of this list may be idle.
    idle: Duration,
}

#[derive(Debug)]
struct Entry<T> {
    key: Key,
    serial: u32,
    slot: u32,
    used: Duration,
    answered: bool,
    /// Among those of its list.
    age: Links,
    /// Among those of its slot.
    mates: Links,
    value: T,
}

/// The sessions of one worker.
#[derive(Debug)]
pub(crate) struct Sessions<T> {
    entries: Slab<Entry<T>>,
    by_key: HashMap<Key, u32, Keyed>,
    /// Unanswered, answered: each list has one idle time, so that its oldest is the next to end.
    ages: [Ages; 2],
    /// The newest session of each slot.
    by_slot: HashMap<u32, u32>,
    serial: u32,
}

impl<T> Sessions<T> {
    /// `unanswered` and `answered`: how long sessions may be idle; `secret`: any number that clients do not know.
    pub(crate) fn new(unanswered: Duration, answered: Duration, secret: u64) -> Self {
        Self {
            entries: Slab::new(),
            by_key: HashMap::with_hasher(Keyed::new(secret)),
            ages: [unanswered, answered].map(|idle| Ages { oldest: NONE, newest: NONE, idle }),
            by_slot: HashMap::new(),
            serial: 0,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// The session of `key`, if there is one.
    pub(crate) fn find(&self, key: &Key) -> Option<SessionId> {
        self.by_key.get(key).map(|&index| self.id(index))
    }

    /// Add a session that is used now, of the pool in `slot`. An earlier one of the same key is returned: it is over.
    pub(crate) fn insert(&mut self, key: Key, slot: u32, now: Duration, value: T) -> (SessionId, Option<T>) {
        let earlier = self.find(&key).and_then(|id| self.remove(id));
        self.serial = self.serial.wrapping_add(1);
        let nowhere = Links { before: NONE, after: NONE };
        let entry =
            Entry { key, serial: self.serial, slot, used: now, answered: false, age: nowhere, mates: nowhere, value };
        let index = self.entries.insert(entry) as u32;
        self.by_key.insert(key, index);
        self.append(index);
        self.join(index);
        (self.id(index), earlier.map(|(_, value)| value))
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&T> {
        self.entry(id).map(|entry| &entry.value)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut T> {
        self.entries.get_mut(id.index as usize).filter(|entry| entry.serial == id.serial).map(|entry| &mut entry.value)
    }

    pub(crate) fn key(&self, id: SessionId) -> Option<Key> {
        self.entry(id).map(|entry| entry.key)
    }

    /// When the session was used last.
    pub(crate) fn used(&self, id: SessionId) -> Option<Duration> {
        self.entry(id).map(|entry| entry.used)
    }

    /// A datagram passes; `answer`: it comes from the backend.
    pub(crate) fn touch(&mut self, id: SessionId, now: Duration, answer: bool) {
        let Some(entry) = self.entries.get_mut(id.index as usize).filter(|entry| entry.serial == id.serial) else {
            return;
        };
        entry.used = now;
        let answered = entry.answered || answer;
        if answered == entry.answered && entry.age.after == NONE {
            return; // the newest already
        }
        self.take_out(id.index);
        self.entries[id.index as usize].answered = answered;
        self.append(id.index);
    }

    /// Forget a session; what was kept of it, and its key.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<(Key, T)> {
        self.entry(id)?;
        self.take_out(id.index);
        self.leave(id.index);
        let entry = self.entries.remove(id.index as usize);
        self.by_key.remove(&entry.key);
        Some((entry.key, entry.value))
    }

    /// The session that was idle longest.
    pub(crate) fn oldest(&self) -> Option<SessionId> {
        let oldest = self.ages.iter().filter(|ages| ages.oldest != NONE).map(|ages| ages.oldest);
        oldest.min_by_key(|&index| self.entries[index as usize].used).map(|index| self.id(index))
    }

    /// Of the `look` sessions that were idle longest, those that are wanted, the oldest first.
    pub(crate) fn oldest_where(&self, look: usize, wanted: impl Fn(&T) -> bool) -> Vec<SessionId> {
        let mut next = self.ages.map(|ages| ages.oldest);
        let mut found = Vec::new();
        for _ in 0..look {
            let entry = |index: &u32| self.entries.get(*index as usize);
            let Some(list) = (0..next.len())
                .filter(|&list| next[list] != NONE)
                .min_by_key(|&list| entry(&next[list]).map(|entry| entry.used))
            else {
                break;
            };
            let Some(oldest) = entry(&next[list]) else { break };
            if wanted(&oldest.value) {
                found.push(self.id(next[list]));
            }
            next[list] = oldest.age.after;
        }
        found
    }

    /// When the next session ends unless it is used before.
    pub(crate) fn next_end(&self) -> Option<Duration> {
        let ends = self.ages.iter().filter(|ages| ages.oldest != NONE);
        ends.map(|ages| self.entries[ages.oldest as usize].used + ages.idle).min()
    }

    /// A session whose idle time is over.
    pub(crate) fn ended(&self, now: Duration) -> Option<SessionId> {
        let over = |ages: &&Ages| ages.oldest != NONE && self.entries[ages.oldest as usize].used + ages.idle <= now;
        self.ages.iter().find(over).map(|ages| self.id(ages.oldest))
    }

    /// The session is of the pool in `slot` from now on.
    pub(crate) fn change_slot(&mut self, id: SessionId, slot: u32) {
        if self.entry(id).is_none_or(|entry| entry.slot == slot) {
            return;
        }
        self.leave(id.index);
        let entry = &mut self.entries[id.index as usize];
        (entry.slot, entry.mates) = (slot, Links { before: NONE, after: NONE });
        self.join(id.index);
    }

    /// The sessions of the pool in `slot`.
    pub(crate) fn of_slot(&self, slot: u32) -> Vec<SessionId> {
        let mut found = Vec::new();
        let mut index = self.by_slot.get(&slot).copied().unwrap_or(NONE);
        while index != NONE {
            found.push(self.id(index));
            index = self.entries[index as usize].mates.before;
        }
        found
    }

    /// All sessions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SessionId, &T)> {
        self.entries.iter().map(|(index, entry)| (self.id(index as u32), &entry.value))
    }

    /// Forget all sessions, and tell what was kept of them.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.by_key.clear();
        self.by_slot.clear();
        self.ages.iter_mut().for_each(|ages| (ages.oldest, ages.newest) = (NONE, NONE));
        self.entries.drain().map(|entry| entry.value).collect()
    }

    fn id(&self, index: u32) -> SessionId {
        SessionId { index, serial: self.entries[index as usize].serial }
    }

    fn entry(&self, id: SessionId) -> Option<&Entry<T>> {
        self.entries.get(id.index as usize).filter(|entry| entry.serial == id.serial)
    }

    /// To the end of its list of ages.
    fn append(&mut self, index: u32) {
        let list = &mut self.ages[usize::from(self.entries[index as usize].answered)];
        let before = std::mem::replace(&mut list.newest, index);
        self.entries[index as usize].age = Links { before, after: NONE };
        match before {
            NONE => list.oldest = index,
            before => self.entries[before as usize].age.after = index,
        }
    }

    /// Out of its list of ages.
    fn take_out(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        let (Links { before, after }, list) = (entry.age, usize::from(entry.answered));
        match before {
            NONE => self.ages[list].oldest = after,
            before => self.entries[before as usize].age.after = after,
        }
        match after {
            NONE => self.ages[list].newest = before,
            after => self.entries[after as usize].age.before = before,
        }
    }

    /// Into the list of its slot.
    fn join(&mut self, index: u32) {
        let before = self.by_slot.insert(self.entries[index as usize].slot, index).unwrap_or(NONE);
        self.entries[index as usize].mates.before = before;
        if before != NONE {
            self.entries[before as usize].mates.after = index;
        }
    }

    /// Out of the list of its slot.
    fn leave(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        let (Links { before, after }, slot) = (entry.mates, entry.slot);
        if before != NONE {
            self.entries[before as usize].mates.after = after;
        }
        match (before, after) {
            (NONE, NONE) => drop(self.by_slot.remove(&slot)),
            (_, NONE) => drop(self.by_slot.insert(slot, before)),
            (_, after) => self.entries[after as usize].mates.before = before,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
