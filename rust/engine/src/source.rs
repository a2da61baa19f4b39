//! Whose address a backend sees. The client's where the route says so, unless the backend's answers to it are known to
//! take a way past this machine: that is a matter of the network, so it is learnt by trying and remembered by addresses.
//!
//! Examples: a Pod of another node that dialled this node, with its backend on a third one or on its own; two Pods on one
//! bridge; networks that drop sources which they did not give out. The client's own kernel resets what reaches it so, and
//! we hear nothing at all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long answers of a pair are taken to bypass us after the first sign of it, which may be a lost packet or a Pod that has
/// just come up.
const DOUBT: Duration = Duration::from_secs(10);
/// The same after a second sign with no answer to the client's address in between. No sign counts longer than this.
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

/// What is known of a pair.
#[derive(Clone, Copy, Debug)]
struct Sign {
    seen: Duration,
    /// How long it speaks for a bypass; then the next flow looks again.
    holds: Duration,
}

/// Signs by pair, in the order in which they were seen.
#[derive(Debug, Default)]
struct Pairs {
    signs: HashMap<Pair, Sign>,
    /// The pairs of `signs`, and of some that are gone.
    order: VecDeque<(Pair, Duration)>,
}

impl Pairs {
    fn add(&mut self, pair: Pair, sign: Sign) {
        self.signs.insert(pair, sign);
        self.order.push_back((pair, sign.seen));
        if self.order.len() > 2 * MOST {
            let signs = &self.signs;
            self.order.retain(|(pair, seen)| signs.get(pair).is_some_and(|sign| sign.seen == *seen));
        }
    }

    /// The oldest one; false: there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some((pair, seen)) = self.order.pop_front() {
            if self.signs.get(&pair).is_some_and(|sign| sign.seen == seen) {
                self.signs.remove(&pair);
                return true;
            }
        }
        false
    }

    fn forget_old(&mut self, now: Duration) {
        while self.order.front().is_some_and(|(_, seen)| *seen + MEMORY <= now) {
            let Some((pair, seen)) = self.order.pop_front() else { return };
            if self.signs.get(&pair).is_some_and(|sign| sign.seen == seen) {
                self.signs.remove(&pair);
            }
        }
    }

    fn bypass(&self, pair: &Pair, now: Duration) -> bool {
        self.signs.get(pair).is_some_and(|sign| sign.seen + sign.holds > now)
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
        let pair = pair(client, backend);
        self.change(now, |pairs| {
            if pairs.bypass(&pair, now) {
                return; // flows that began at the same time learn the same
            }
            let holds = if pairs.signs.remove(&pair).is_some() { MEMORY } else { DOUBT };
            if pairs.signs.len() >= MOST && pairs.forget_oldest() {
                self.limit_hits.fetch_add(1, Relaxed);
            }
            pairs.add(pair, Sign { seen: now, holds });
        });
    }

    /// A backend has answered to its client's address.
    pub(crate) fn unlearn(&self, client: SocketAddr, backend: SocketAddr, now: Duration) {
        if self.count.load(Relaxed) > 0 {
            self.change(now, |pairs| pairs.signs.remove(&pair(client, backend)));
        }
    }

    /// Pairs that are taken to bypass us now.
    pub(crate) fn len(&self, now: Duration) -> usize {
        self.change(now, |pairs| pairs.signs.keys().filter(|pair| pairs.bypass(pair, now)).count())
    }

    /// How many were forgotten for lack of room.
    pub(crate) fn limit_hits(&self) -> u64 {
        self.limit_hits.load(Relaxed)
    }

    fn has(&self, pair: Pair, now: Duration) -> bool {
        self.count.load(Relaxed) > 0 && self.change(now, |pairs| pairs.bypass(&pair, now))
    }

    fn change<T>(&self, now: Duration, act: impl FnOnce(&mut Pairs) -> T) -> T {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.forget_old(now);
        let result = act(&mut pairs);
        self.count.store(pairs.signs.len(), Relaxed);
        result
    }
}

fn pair(client: SocketAddr, backend: SocketAddr) -> Pair {
    (client.ip().to_canonical(), backend.ip())
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

    /// Every flow of such a client would wait in vain first; or the client's address would be lost to other backends, or to
    /// other clients.
    #[test]
    fn a_pair_is_remembered_whatever_the_ports() {
        let bypasses = Bypasses::default();
        let (client, backend) = (address("10.0.0.1:1"), address("10.0.0.9:80"));
        let source = |client, backend| bypasses.source(true, client, backend, NOW);
        assert_eq!(source(client, backend), Source::Client(client.ip()));
        bypasses.learn(address("[::ffff:10.0.0.1]:2"), address("10.0.0.9:53"), NOW);
        assert_eq!(source(client, backend), Source::Known);
        assert_eq!(bypasses.source(false, client, backend, NOW), Source::Own);
        assert_eq!(source(address("10.0.0.2:1"), backend), Source::Client(address("10.0.0.2:1").ip()));
        assert_eq!(source(client, address("10.0.0.8:80")), Source::Client(client.ip()));
    }

    /// A packet that was lost once would cost a client its address for a minute, or a strange network every tenth second.
    #[test]
    fn a_second_sign_is_remembered_longer() {
        let (bypasses, [client, backend]) = (Bypasses::default(), ["10.0.0.1:1", "10.0.0.9:80"].map(address));
        let known = |now| bypasses.source(true, client, backend, now) == Source::Known;
        bypasses.learn(client, backend, NOW);
        bypasses.learn(client, backend, NOW + DOUBT / 2); // of a flow that began before: no second sign
        assert!(known(NOW + DOUBT - Duration::from_millis(1)));
        assert!(!known(NOW + DOUBT));
        let again = NOW + DOUBT * 2;
        bypasses.learn(client, backend, again);
        assert_eq!(bypasses.len(NOW + MEMORY), 1, "the first sign is over, and not the second");
        assert!(known(again + MEMORY - Duration::from_millis(1)));
        assert!(!known(again + MEMORY));
        bypasses.learn(client, backend, again + MEMORY);
        assert!(!known(again + MEMORY + DOUBT), "nothing is left of the old signs");
        bypasses.unlearn(client, backend, again + MEMORY + DOUBT);
        bypasses.learn(client, backend, again + MEMORY + DOUBT);
        assert!(!known(again + MEMORY + DOUBT * 2), "an answer came in between");
        assert_eq!((bypasses.len(again * 2), bypasses.limit_hits(), bypasses.count.load(Relaxed)), (0, 0, 0));
    }

    /// A network that drops all such sources has as many pairs as there are clients: memory must not grow with them.
    #[test]
    fn the_oldest_pair_makes_room() {
        let (bypasses, backend) = (Bypasses::default(), address("10.0.0.9:80"));
        for number in 0..MOST + 3 {
            bypasses.learn(numbered(number), backend, NOW + Duration::from_micros(number as u64));
        }
        let now = NOW + DOUBT / 2;
        assert_eq!((bypasses.len(now), bypasses.limit_hits()), (MOST, 3));
        let known = |number| bypasses.has((numbered(number).ip(), backend.ip()), now);
        assert!(!known(2) && known(3) && known(MOST + 2));
        for number in 0..4 * MOST {
            let now = now + Duration::from_micros(number as u64);
            bypasses.learn(numbered(0), backend, now);
            bypasses.unlearn(numbered(0), backend, now);
        }
        assert!(bypasses.change(now, |pairs| pairs.order.len()) <= 2 * MOST);
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
