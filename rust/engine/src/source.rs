//! Whose address a backend sees. The client's where the route says so, unless the backend's answers to it are known to
//! take a way past this machine: that is a matter of the network, so it is learnt by trying and remembered by addresses.
//!
//! Examples: a Pod of another node that dialled this node, with its backend on a third one or on its own; two Pods on one
//! bridge; networks that drop sources which they did not give out. The client's own kernel resets what reaches it so, and
//! we hear nothing at all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a pair is remembered: then one flow looks again whether the network has changed.
const MEMORY: Duration = Duration::from_secs(60);
/// Pairs that are remembered at most; beyond it, the oldest is forgotten.
const MOST: usize = 8192;

/// Whose address the backend of an attempt sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Our own, as it should be.
    Own,
    /// The client's.
    Client(IpAddr),
    /// Our own instead of the client's: answers to that are known to bypass us.
    Known,
    /// Our own instead of the client's: that was tried first, and nothing was heard for so long.
    AfterSilence(Duration),
}

impl Source {
    /// The address to bind to, if it is not ours.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::Client(ip) => Some(ip),
            Self::Own | Self::Known | Self::AfterSilence(_) => None,
        }
    }

    /// The backend should see the client, and sees us.
    pub(crate) fn is_substitute(self) -> bool {
        matches!(self, Self::Known | Self::AfterSilence(_))
    }
}

/// A client and a backend.
type Pair = (IpAddr, IpAddr);

/// The pairs whose answers bypass this machine, in the order in which they were learnt.
#[derive(Debug, Default)]
struct Pairs {
    until: HashMap<Pair, Duration>,
    order: VecDeque<Pair>,
}

impl Pairs {
    fn forget_oldest(&mut self) {
        if let Some(pair) = self.order.pop_front() {
            self.until.remove(&pair);
        }
    }

    /// All live equally long, so the oldest is the first to end.
    fn forget_ended(&mut self, now: Duration) {
        while self.order.front().and_then(|pair| self.until.get(pair)).is_some_and(|&until| until <= now) {
            self.forget_oldest();
        }
    }
}

/// What all workers know of such pairs. Nothing is locked while there is none, as on most machines.
#[derive(Debug, Default)]
pub(crate) struct Bypasses {
    pairs: Mutex<Pairs>,
    count: AtomicUsize,
    limit_hits: AtomicU64,
}

impl Bypasses {
    /// Whose address `backend` is to see; `keep`: the route says that it is the client's.
    pub(crate) fn source(&self, keep: bool, client: SocketAddr, backend: SocketAddr, now: Duration) -> Source {
        match kept(keep, client, backend) {
            Some(ip) if self.has((ip, backend.ip()), now) => Source::Known,
            Some(ip) => Source::Client(ip),
            None => Source::Own,
        }
    }

    /// A backend that was silent toward its client's address has answered to ours.
    pub(crate) fn learn(&self, client: SocketAddr, backend: SocketAddr, now: Duration) {
        let pair = (client.ip().to_canonical(), backend.ip());
        let mut pairs = self.lock();
        pairs.forget_ended(now);
        if pairs.until.contains_key(&pair) {
            return; // flows that began at the same time learn the same
        }
        if pairs.order.len() >= MOST {
            pairs.forget_oldest();
            self.limit_hits.fetch_add(1, Relaxed);
        }
        pairs.until.insert(pair, now.saturating_add(MEMORY));
        pairs.order.push_back(pair);
        self.count.store(pairs.order.len(), Relaxed);
    }

    /// Pairs that are remembered now.
    pub(crate) fn len(&self, now: Duration) -> usize {
        let mut pairs = self.lock();
        pairs.forget_ended(now);
        self.count.store(pairs.order.len(), Relaxed);
        pairs.order.len()
    }

    /// How many were forgotten for lack of room.
    pub(crate) fn limit_hits(&self) -> u64 {
        self.limit_hits.load(Relaxed)
    }

    fn has(&self, pair: Pair, now: Duration) -> bool {
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let mut pairs = self.lock();
        pairs.forget_ended(now);
        self.count.store(pairs.order.len(), Relaxed);
        pairs.until.contains_key(&pair)
    }

    fn lock(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's address, if `backend` may see it: never the backend's own one (it would answer itself), nor one that has
/// a meaning on this machine or link only.
fn kept(keep: bool, client: SocketAddr, backend: SocketAddr) -> Option<IpAddr> {
    let client = client.ip().to_canonical();
    let reachable = match client {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let another = client.is_ipv4() == backend.is_ipv4() && client != backend.ip();
    (keep && reachable && another).then_some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn numbered(number: usize) -> SocketAddr {
        SocketAddr::new(IpAddr::from((number as u32).to_be_bytes()), 1)
    }

    /// Every flow of such a client would wait in vain first; or the client's address would be lost to other backends, to
    /// other clients, or for ever.
    #[test]
    fn a_pair_is_remembered_for_a_minute_whatever_the_ports() {
        let bypasses = Bypasses::default();
        let (client, backend) = (address("10.0.0.1:1"), address("10.0.0.9:80"));
        let source = |client, backend, now| bypasses.source(true, client, backend, now);
        assert_eq!(source(client, backend, NOW), Source::Client(client.ip()));
        bypasses.learn(address("[::ffff:10.0.0.1]:2"), address("10.0.0.9:53"), NOW);
        assert_eq!(source(client, backend, NOW), Source::Known);
        assert_eq!(bypasses.source(false, client, backend, NOW), Source::Own);
        assert_eq!(source(address("10.0.0.2:1"), backend, NOW), Source::Client(address("10.0.0.2:1").ip()));
        assert_eq!(source(client, address("10.0.0.8:80"), NOW), Source::Client(client.ip()));
        bypasses.learn(client, backend, NOW + MEMORY / 2);
        assert_eq!(source(client, backend, NOW + MEMORY), Source::Client(client.ip()), "learnt once, not renewed");
        assert_eq!((bypasses.len(NOW + MEMORY), bypasses.limit_hits()), (0, 0));
    }

    /// A network that drops all such sources has as many pairs as there are clients: memory must not grow with them.
    #[test]
    fn the_oldest_pair_makes_room() {
        let (bypasses, backend) = (Bypasses::default(), address("10.0.0.9:80"));
        for number in 0..MOST + 3 {
            bypasses.learn(numbered(number), backend, NOW);
        }
        assert_eq!((bypasses.len(NOW), bypasses.limit_hits()), (MOST, 3));
        let pairs = bypasses.lock();
        assert_eq!((pairs.order.len(), pairs.until.len()), (MOST, MOST));
        drop(pairs);
        assert!(!bypasses.has((numbered(2).ip(), backend.ip()), NOW));
        assert!(bypasses.has((numbered(3).ip(), backend.ip()), NOW));
        assert!(bypasses.has((numbered(MOST + 2).ip(), backend.ip()), NOW));
    }

    /// A Pod that reached itself with its own address would answer itself (M-05), and nobody can answer to loopback.
    #[test]
    fn some_addresses_are_never_kept() {
        let kept = |client, backend| kept(true, address(client), address(backend)).map(|ip| ip.to_string());
        assert_eq!(kept("10.0.0.1:1", "10.0.0.1:80"), None);
        assert_eq!(kept("127.0.0.1:1", "10.0.0.1:80"), None);
        assert_eq!(kept("[::1]:1", "[fd00::1]:80"), None);
        assert_eq!(kept("[fe80::1]:1", "[fd00::1]:80"), None);
        assert_eq!(kept("10.0.0.1:1", "[fd00::1]:80"), None);
        assert_eq!(kept("[::ffff:10.0.0.2]:1", "10.0.0.1:80").as_deref(), Some("10.0.0.2"));
    }
}
