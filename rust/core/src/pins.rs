//! What session affinity remembers: clients with their backends, in the order of their last use.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use slab::Slab;

/// No pin: the end of the list.
const NONE: u32 = u32::MAX;

/// A client of a group. An IPv4 address is kept as a v4-mapped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) group: u32,
    client: Ipv6Addr,
}

impl Key {
    pub(crate) const fn new(group: u32, client: IpAddr) -> Self {
        let client = match client {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { group, client }
    }
}

/// One client's backend. Times are milliseconds of the caller's clock.
#[derive(Debug)]
pub(crate) struct Pin {
    key: Key,
    pub(crate) backend: SocketAddr,
    /// When it was made or renewed.
    used: u64,
    /// How long it lives from then on.
    pub(crate) timeout: u32,
    /// The pins that were used just before and just after this one.
    older: u32,
    newer: u32,
}

impl Pin {
    /// Milliseconds that are left of it; 0: it does not count any more.
    pub(crate) fn left(&self, now: u64) -> u64 {
        (self.used + u64::from(self.timeout)).saturating_sub(now)
    }
}

/// Pins of any groups, found by key, with the one that was idle longest at hand.
#[derive(Debug)]
pub(crate) struct Pins {
    index: HashMap<Key, u32>,
    pins: Slab<Pin>,
    oldest: u32,
    newest: u32,
}

impl Default for Pins {
    fn default() -> Self {
        Self { index: HashMap::new(), pins: Slab::new(), oldest: NONE, newest: NONE }
    }
}

impl Pins {
    pub(crate) fn len(&self) -> usize {
        self.pins.len()
    }

    /// The place of a client's pin.
    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// The pin in a place that was just found.
    pub(crate) fn at(&self, at: u32) -> &Pin {
        &self.pins[at as usize]
    }

    /// The one that was idle longest.
    pub(crate) fn oldest(&self) -> Option<&Pin> {
        self.pins.get(self.oldest as usize)
    }

    /// Make the pin of a client that has none.
    pub(crate) fn insert(&mut self, key: Key, backend: SocketAddr, now: u64, timeout: u32) {
        let pin = Pin { key, backend, used: now, timeout, older: NONE, newer: NONE };
        let at = self.pins.insert(pin) as u32; // the limit of pins is far below 2^32
        self.index.insert(key, at);
        self.link(at);
    }

    /// The pin in this place is used, and may get another backend.
    pub(crate) fn renew(&mut self, at: u32, backend: SocketAddr, now: u64, timeout: u32) {
        let pin = &mut self.pins[at as usize];
        (pin.backend, pin.used, pin.timeout) = (backend, now, timeout);
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
    }

    pub(crate) fn remove_oldest(&mut self) {
        if self.oldest().is_some() {
            self.remove(self.oldest);
        }
    }

    /// Remove those that do not count any more. None of them lives shorter than `least` milliseconds.
    pub(crate) fn sweep(&mut self, now: u64, least: u64) {
        let mut at = self.oldest;
        while let Some(pin) = self.pins.get(at as usize) {
            if pin.used + least > now {
                return; // and so are all that follow
            }
            let (expired, newer) = (pin.left(now) == 0, pin.newer);
            if expired {
                self.remove(at);
            }
            at = newer;
        }
        self.shrink();
    }

    /// Remove all pins of a group.
    pub(crate) fn remove_group(&mut self, group: u32) {
        let of_group = self.pins.iter().filter(|(_, pin)| pin.key.group == group);
        let found: Vec<u32> = of_group.map(|(at, _)| at as u32).collect();
        found.into_iter().for_each(|at| self.remove(at));
        self.shrink();
    }

    /// The pins of a group live `timeout` from their last use, whatever was said before.
    pub(crate) fn retime_group(&mut self, group: u32, timeout: u32) {
        for (_, pin) in self.pins.iter_mut().filter(|(_, pin)| pin.key.group == group) {
            pin.timeout = timeout;
        }
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        let pin = self.pins.remove(at as usize);
        self.index.remove(&pin.key);
    }

    /// Put a pin at the end of the order.
    fn link(&mut self, at: u32) {
        let newest = std::mem::replace(&mut self.newest, at);
        let pin = &mut self.pins[at as usize];
        (pin.older, pin.newer) = (newest, NONE);
        match self.pins.get_mut(newest as usize) {
            Some(before) => before.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Pin { older, newer, .. } = self.pins[at as usize];
        match self.pins.get_mut(older as usize) {
            Some(pin) => pin.newer = newer,
            None => self.oldest = newer,
        }
        match self.pins.get_mut(newer as usize) {
            Some(pin) => pin.older = older,
            None => self.newest = older,
        }
    }

    /// Give memory back after a flood.
    fn shrink(&mut self) {
        if self.pins.is_empty() {
            *self = Self::default();
        }
    }
}
