//! Session affinity: clients, by IP address, stay with their backend until some time after their last new flow.
//!
//! It is state and no hash, because a client that comes back later is to be drawn anew. Pools of one group share it, it
//! outlives the generations of its pools, and it is bounded over all groups.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::hash::{fastrange, source_key};
use crate::pins::{Key, Pins};
use crate::pool::{AffinitySpec, Backend, Pool};
use crate::rng::Rng;

/// The most parts that the memory is divided into, each with a lock of its own.
const MOST_SHARDS: usize = 16;
/// With fewer clients to a part than this, one part is enough, and the order of forgetting is exact.
const SHARD_ROOM: usize = 1024;

/// All pins, divided by client, so that workers seldom wait for one another.
#[derive(Debug)]
struct Store {
    shards: Box<[Mutex<Pins>]>,
    /// Pins that a shard can hold.
    room: usize,
    limit_hits: AtomicU64,
}

impl Store {
    fn shard(&self, group: u32, client: IpAddr) -> MutexGuard<'_, Pins> {
        lock(&self.shards[fastrange(source_key(client, group.into()), self.shards.len())])
    }

    fn each(&self, mut act: impl FnMut(&mut Pins)) {
        self.shards.iter().for_each(|shard| act(&mut lock(shard)));
    }

    /// Make a pin; at the limit, the one that was idle longest is forgotten.
    fn insert(&self, pins: &mut Pins, key: Key, backend: SocketAddr, now: u64, timeout: u32) {
        if let Some(oldest) = pins.oldest() {
            let expired = oldest.left(now) == 0;
            let full = pins.len() >= self.room;
            if expired || full {
                pins.remove_oldest();
            }
            if full && !expired {
                self.limit_hits.fetch_add(1, Relaxed);
            }
        }
        pins.insert(key, backend, now, timeout);
    }
}

/// Pools whose clients are remembered together.
#[derive(Debug)]
pub(crate) struct Group {
    /// Never used again.
    id: u32,
    store: Arc<Store>,
    /// Milliseconds.
    timeout: AtomicU32,
    /// A client was remembered.
    used: AtomicBool,
    /// No pool names the group any more: a flow that still has an old pool must not leave a trace.
    gone: AtomicBool,
}

impl Group {
    /// The client's backend, if it takes flows of this pool and nothing speaks against it, else another one that it is
    /// pinned to from now on. Flows of one client that begin at the same time get the same.
    pub(crate) fn pick<'p>(
        &self,
        pool: &'p Pool,
        client: SocketAddr,
        tried: &[SocketAddr],
        now: Duration,
        rng: &mut Rng,
    ) -> Option<&'p Backend> {
        let (ip, now) = (client.ip().to_canonical(), millis(now));
        let key = Key::new(self.id, ip);
        let mut pins = self.store.shard(self.id, ip);
        if self.gone.load(Relaxed) {
            return pool.pick(pool.key(client), tried, rng);
        }
        let found = pins.find(&key);
        let pinned = found.map(|at| pins.at(at)).filter(|pin| pin.left(now) > 0);
        let stays = pinned.and_then(|pin| pool.preferred(pin.backend)).map(|index| &pool.backends[index]);
        let chosen = match stays.filter(|backend| !tried.contains(&backend.address)) {
            Some(backend) => backend,
            None => pool.pick(pool.key(client), tried, rng)?,
        };
        let timeout = self.timeout.load(Relaxed);
        match found {
            Some(at) => pins.renew(at, chosen.address, now, timeout),
            None => self.store.insert(&mut pins, key, chosen.address, now, timeout),
        }
        self.used.store(true, Relaxed);
        Some(chosen)
    }

    /// The client's backend and how long it stays its backend, without renewing that.
    pub(crate) fn peek(&self, client: IpAddr, now: Duration) -> Option<(SocketAddr, Duration)> {
        let (client, now) = (client.to_canonical(), millis(now));
        let pins = self.store.shard(self.id, client);
        let pin = pins.at(pins.find(&Key::new(self.id, client))?);
        let left = pin.left(now);
        (left > 0).then_some((pin.backend, Duration::from_millis(left)))
    }

    fn set_timeout(&self, timeout: u32) {
        if self.timeout.swap(timeout, Relaxed) != timeout && self.used.load(Relaxed) {
            self.store.each(|pins| pins.retime_group(self.id, timeout));
        }
    }
}

/// A pool's part in a group.
#[derive(Debug)]
pub(crate) struct Affinity {
    pub(crate) group: Arc<Group>,
    name: Arc<str>,
    timeout: u32,
}

/// A group and the number of published pools that name it.
#[derive(Debug)]
struct Named {
    group: Arc<Group>,
    pools: usize,
}

/// The groups by name, and all that they remember.
#[derive(Debug)]
pub struct Affinities {
    store: Arc<Store>,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    by_name: HashMap<Arc<str>, Named>,
    next: u32,
}

impl Affinities {
    /// Remembers `limit` clients at most.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let shards = (limit / SHARD_ROOM).clamp(1, MOST_SHARDS);
        let store = Store {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            room: (limit / shards).max(1),
            limit_hits: AtomicU64::new(0),
        };
        Self { store: Arc::new(store), groups: Mutex::default() }
    }

    /// Clients that are remembered now.
    #[must_use]
    pub fn len(&self, now: Duration) -> usize {
        let least = {
            let groups = lock(&self.groups);
            groups.by_name.values().map(|named| named.group.timeout.load(Relaxed)).min().unwrap_or(0)
        };
        let mut sum = 0;
        self.store.each(|pins| {
            pins.sweep(millis(now), least.into());
            sum += pins.len();
        });
        sum
    }

    /// Groups that are known now.
    #[must_use]
    pub fn groups(&self) -> usize {
        lock(&self.groups).by_name.len()
    }

    /// How many were forgotten for lack of room.
    #[must_use]
    pub fn limit_hits(&self) -> u64 {
        self.store.limit_hits.load(Relaxed)
    }

    /// A pool's part in the group that `spec` names, which is made if there is none.
    pub(crate) fn join(&self, spec: &AffinitySpec) -> Affinity {
        let timeout = u32::try_from(spec.timeout.as_millis()).unwrap_or(u32::MAX);
        let mut groups = lock(&self.groups);
        if let Some((name, named)) = groups.by_name.get_key_value(spec.group.as_str()) {
            return Affinity { group: Arc::clone(&named.group), name: Arc::clone(name), timeout };
        }
        let group = Arc::new(Group {
            id: groups.next,
            store: Arc::clone(&self.store),
            timeout: AtomicU32::new(timeout),
            used: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        });
        groups.next = groups.next.wrapping_add(1);
        let name: Arc<str> = spec.group.as_str().into();
        groups.by_name.insert(Arc::clone(&name), Named { group: Arc::clone(&group), pools: 0 });
        Affinity { group, name, timeout }
    }

    /// To be called when `pool` was published: a changed timeout takes effect at once (U-13).
    pub fn enter(&self, pool: Option<&Pool>) {
        let Some(affinity) = pool.and_then(|pool| pool.affinity.as_ref()) else { return };
        if let Some(named) = lock(&self.groups).by_name.get_mut(&affinity.name) {
            named.pools += 1;
        }
        affinity.group.set_timeout(affinity.timeout);
    }

    /// To be called when `pool` is not published any more, after [`enter`](Self::enter) of all that are: a group that no pool
    /// names is forgotten.
    pub fn leave(&self, pool: Option<&Pool>) {
        let Some(affinity) = pool.and_then(|pool| pool.affinity.as_ref()) else { return };
        let group = {
            let mut groups = lock(&self.groups);
            let Some(named) = groups.by_name.get_mut(&affinity.name) else { return };
            named.pools -= 1;
            if named.pools > 0 {
                return;
            }
            groups.by_name.remove(&affinity.name).map(|named| named.group)
        };
        if let Some(group) = group {
            group.gone.store(true, Relaxed);
            self.store.each(|pins| {
                if group.used.load(Relaxed) {
                    pins.remove_group(group.id);
                }
            });
        }
    }

    /// To be called when pools were built but not published: groups that only they name are forgotten.
    pub fn forget_unpublished(&self) {
        lock(&self.groups).by_name.retain(|_, named| named.pools > 0);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
