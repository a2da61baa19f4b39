//! The last backends of pools that have none any more, for clients whose handshake was under way when these left.
//!
//! Capture refuses new clients before a pool is emptied. Who was let through just before is accepted a moment later: with
//! nowhere to go, it would be reset after a connect that succeeded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spliceway_core::pool::Pool;

/// How long after a pool was emptied connections are served as before. A handshake takes a round trip; who needs longer has
/// lost a packet, and dials backends that have ended by then.
const GRACE: Duration = Duration::from_secs(1);

/// The last generation that had a backend for new flows, and when it is forgotten.
type Last = (Arc<Pool>, Duration);

/// By the pool's name.
#[derive(Debug, Default)]
pub(crate) struct Emptied(Mutex<HashMap<Arc<str>, Last>>);

impl Emptied {
    /// Remember `pools`, which have no backend for new flows from `now` on. Tells when to call [`forget`](Self::forget).
    pub(crate) fn note(&self, pools: Vec<Arc<Pool>>, now: Duration) -> Duration {
        let until = now + GRACE;
        let entries = pools.into_iter().map(|pool| (Arc::clone(&pool.name), (pool, until)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(entries);
        until
    }

    /// The generation that a connection to `pool`, which has no backend, is served by at `now`.
    pub(crate) fn last(&self, pool: &Pool, now: Duration) -> Option<Arc<Pool>> {
        let pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, _) = pools.get(&pool.name).filter(|(_, until)| now < *until)?;
        Arc::ptr_eq(&last.state, &pool.state).then(|| Arc::clone(last))
    }

    /// Forget those whose time is over at `now`, and the room for them.
    pub(crate) fn forget(&self, now: Duration) {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|_, (_, until)| now < *until);
        pools.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use spliceway_core::affinity::Affinities;
    use spliceway_core::maglev::TableCache;
    use spliceway_core::pool::{BackendSpec, Balance, PoolSpec};
    use spliceway_core::retry::RetryPolicy;

    use super::*;

    fn pool(weights: &[u16], previous: Option<&Arc<Pool>>) -> Arc<Pool> {
        let backend = |(port, &weight): (u16, &u16)| {
            let address = ([198, 18, 0, 1], port).into();
            BackendSpec { address, weight, healthy: true }
        };
        let backends = (1..).zip(weights).map(backend).collect();
        let (balance, retry) = (Balance::Maglev, RetryPolicy::default());
        let spec = PoolSpec { name: "p".into(), balance, retry, drain: None, affinity: None, backends };
        let affinities = Affinities::new(1);
        Arc::new(Pool::build(spec, previous.map(Arc::as_ref), &mut TableCache::default(), &affinities).unwrap())
    }

    /// Clients of a Service must not reach Pods that left long ago, nor those of a Service that had its name before.
    #[test]
    fn only_the_last_backends_serve_and_only_for_a_moment() {
        let emptied = Emptied::default();
        let (begin, step) = (Duration::from_secs(60), Duration::from_millis(1));
        let two = pool(&[1, 1], None);
        let none = pool(&[0], Some(&two));
        let one = pool(&[1], Some(&none));
        assert!(emptied.last(&none, begin).is_none());
        assert_eq!(emptied.note(vec![two], begin), begin + GRACE);
        assert_eq!(emptied.note(vec![Arc::clone(&one)], begin + step), begin + step + GRACE);
        emptied.forget(begin + GRACE);
        assert!(Arc::ptr_eq(&emptied.last(&none, begin + GRACE).unwrap(), &one));
        assert!(emptied.last(&none, begin + step + GRACE).is_none());
        assert!(emptied.last(&pool(&[], None), begin + step).is_none(), "another pool has the name");
        emptied.forget(begin + step + GRACE);
        assert!(emptied.last(&none, begin).is_none());
    }
}
