//! What is kept of a session, and of its first datagrams until the backend has answered.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use spliceway_core::pool::{BackendState, Pool, PoolState};
use spliceway_core::retry::Dial;
use spliceway_io::udp::Outgoing;

use crate::flow::Serving;
use crate::routes::{ClientClass, Target};
use crate::shared::Shared;
use crate::source::Source;

/// Datagrams that are held for another backend at most, and their bytes.
const HELD_DATAGRAMS: usize = 4;
const HELD_BYTES: usize = 8 << 10;
/// How long they are of use: a client that waits longer has asked again.
const HELD_TIME: Duration = Duration::from_secs(5);

/// Counts a session in its pool and in the engine for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    pub(crate) pool: Arc<PoolState>,
}

impl Counted {
    pub(super) fn new(shared: &Arc<Shared>, pool: &Arc<PoolState>) -> Self {
        shared.bounds.sessions.fetch_add(1, Relaxed);
        pool.flows.fetch_add(1, Relaxed);
        pool.active.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), pool: Arc::clone(pool) }
    }

    /// The session is one of `pool` from now on. It is a flow of both, so that what is told of `pool` adds up.
    fn move_to(&mut self, pool: &Arc<PoolState>) {
        pool.flows.fetch_add(1, Relaxed);
        pool.active.fetch_add(1, Relaxed);
        let left = std::mem::replace(&mut self.pool, Arc::clone(pool));
        left.active.fetch_sub(1, SeqCst);
        self.shared.check_drains();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.pool.active.fetch_sub(1, SeqCst);
        self.shared.bounds.sessions.fetch_sub(1, SeqCst);
        self.shared.check_drains();
    }
}

/// How a session's client reaches it, which is how replies leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// By this listener, an ordinary socket; `any`: it is bound to all addresses, so that replies must name theirs.
    Listener { number: usize, any: bool },
    /// Diverted from an address that is not ours, as a client of this class.
    Diverted(ClientClass),
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Session {
    /// Connected to the backend; none while it waits to try again.
    pub(super) socket: Option<OwnedFd>,
    pub(super) serving: Option<Serving>,
    pub(super) slot: u32,
    pub(super) via: Via,
    /// The backend sees the client's address.
    pub(super) keep_source: bool,
    /// The address that the backend sees, if it is the client's.
    pub(super) from: Option<IpAddr>,
    /// The backend has sent several datagrams at once.
    pub(super) busy: bool,
    /// Equal datagrams leave as trains: to the backend, to the client. False since the kernel has refused one.
    pub(super) joins_in: bool,
    pub(super) joins_out: bool,
    /// Until the backend has answered.
    pub(super) fresh: Option<Box<Fresh>>,
    pub(super) counted: Counted,
}

impl Session {
    /// The backend that it has, or waits to try.
    pub(super) fn backend(&self) -> Option<SocketAddr> {
        let target = || self.fresh.as_ref().and_then(|fresh| fresh.target.as_ref());
        self.serving.as_ref().or_else(target).map(|serving| serving.0.address)
    }

    /// The session goes on with the same backend in the pool of `target`, which keeps `state` of it. A socket that is open
    /// stays as it is, and with it whose address the backend sees.
    pub(super) fn move_to(&mut self, target: Target, pool: &Arc<Pool>, state: &Arc<BackendState>) {
        self.slot = target.slot;
        match self.socket {
            Some(_) => drop(state.flows.fetch_add(1, Relaxed)),
            None => self.keep_source = target.keep_source,
        }
        self.counted.move_to(&pool.state);
        let serving = |_: &Serving| Serving::new(Arc::clone(state));
        self.serving = self.serving.as_ref().map(serving);
        if let Some(fresh) = self.fresh.as_mut() {
            fresh.pool = Arc::clone(pool);
            fresh.target = fresh.target.as_ref().map(serving);
        }
    }
}

/// What a session needs to change its backend.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(super) dial: Dial,
    /// The pool when the session began: what serves it if the pool is removed meanwhile.
    pub(super) pool: Arc<Pool>,
    /// Numbers the attempts, so that a timer knows whether it is still meant.
    pub(super) attempt: u32,
    /// The backend that is to be tried after a wait.
    pub(super) target: Option<Serving>,
    pub(super) held: Held,
    /// Whose address the backend sees, and since when.
    pub(super) source: Source,
    pub(super) since: Duration,
    /// Hash of the client's first datagram, if its address is kept.
    pub(super) asked: Option<u64>,
    /// Neither address had an answer: the client's is kept.
    pub(super) settled: bool,
}

impl Fresh {
    pub(super) fn new(pool: Arc<Pool>, now: Duration) -> Self {
        Self {
            dial: Dial::new(now),
            pool,
            attempt: 0,
            target: None,
            held: Held::new(now),
            source: Source::Own,
            since: now,
            asked: None,
            settled: false,
        }
    }
}

/// The first datagrams of a client: another backend gets them if the first one refuses.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// Where each one ends in `bytes`.
    ends: [u16; HELD_DATAGRAMS],
    count: usize,
    /// One was too many; later ones must not overtake it.
    full: bool,
    since: Duration,
}

impl Held {
    const fn new(now: Duration) -> Self {
        Self { bytes: Vec::new(), ends: [0; HELD_DATAGRAMS], count: 0, full: false, since: now }
    }

    /// Hold the datagrams of `message`, as many as there is room for; tells how many.
    pub(super) fn hold(&mut self, message: Outgoing<'_>) -> usize {
        for index in 0..message.datagrams() {
            let bytes = message.part(index).bytes;
            self.full |= self.count == HELD_DATAGRAMS || self.bytes.len() + bytes.len() > HELD_BYTES;
            if self.full {
                return index;
            }
            self.bytes.extend_from_slice(bytes);
            self.ends[self.count] = self.bytes.len() as u16;
            self.count += 1;
        }
        message.datagrams()
    }

    /// How many datagrams are of use at `now`; older ones are forgotten.
    pub(super) fn count(&mut self, now: Duration) -> usize {
        if now.saturating_sub(self.since) > HELD_TIME {
            (self.bytes, self.count, self.full) = (Vec::new(), 0, true);
        }
        self.count
    }

    /// One of them; `index` is below [`count`](Self::count).
    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before].into());
        &self.bytes[start..self.ends[index].into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8], segment: u16) -> Outgoing<'_> {
        Outgoing { bytes, to: None, from: None, segment, joins: true }
    }

    /// What another backend gets must be the client's first datagrams, whole and in order, and nothing of later ones.
    #[test]
    fn the_first_datagrams_are_held() {
        let mut held = Held::new(Duration::ZERO);
        assert_eq!(held.hold(message(b"", 0)), 1);
        assert_eq!(held.hold(message(b"aabbc", 2)), 3);
        assert_eq!(held.hold(message(b"d", 0)), 0, "four are enough");
        assert_eq!(held.count(Duration::ZERO), 4);
        assert_eq!((0..4).map(|index| held.get(index)).collect::<Vec<_>>(), [&b""[..], b"aa", b"bb", b"c"]);
    }

    /// Memory of sessions is bounded, and a datagram that is not held is not overtaken by one that would fit.
    #[test]
    fn long_datagrams_are_not_held() {
        let mut held = Held::new(Duration::ZERO);
        assert_eq!(held.hold(message(&[1; 5000], 0)), 1);
        assert_eq!(held.hold(message(&[2; 5000], 0)), 0);
        assert_eq!(held.hold(message(&[3; 1], 0)), 0);
        assert_eq!((held.count(HELD_TIME), held.get(0).len()), (1, 5000));
    }

    /// A question of ten minutes ago must not be asked again.
    #[test]
    fn old_datagrams_are_forgotten() {
        let mut held = Held::new(Duration::from_secs(60));
        held.hold(message(b"x", 0));
        assert_eq!(held.count(Duration::from_secs(66)), 0);
        assert_eq!(held.hold(message(b"y", 0)), 0);
    }
}
