//! Why a backend has its place in a flow's order, in words.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::pool::{Balance, Pool};
use crate::select::Scheduler;

/// The reason for the backend that session affinity remembers for `left`.
pub(crate) fn pin_reason(left: Duration) -> String {
    format!("pinned by session affinity for {} s more", left.as_secs_f64().ceil())
}

impl Pool {
    /// The reason for `rank` (as in [`Preview`](crate::pool::Preview)) of the backend with this index.
    pub(crate) fn reason(&self, index: usize, key: u64, rank: u8) -> String {
        let backend = &self.backends[index];
        if backend.weight == 0 {
            return "weight 0: takes no new flows".to_owned();
        }
        if rank == 0 {
            let tries = self.retry.tries;
            return format!("not tried: a flow has {tries} {}", if tries == 1 { "try" } else { "tries" });
        }
        let choice = if rank == 1 {
            self.first_choice(index, key)
        } else {
            format!("retry {}: {}", rank - 1, self.retry_choice())
        };
        match (backend.healthy, self.healthy) {
            (true, _) => choice,
            (false, 0) => format!("{choice}; unhealthy, as are all others"),
            (false, _) => format!("{choice}; unhealthy, so only after the healthy ones"),
        }
    }

    fn first_choice(&self, index: usize, key: u64) -> String {
        if self.usable().len() == 1 {
            return "the only backend that takes flows".to_owned();
        }
        match (&self.scheduler, self.balance) {
            (Scheduler::Hashed(Some(table)), _) => {
                let (slot, size) = (table.slot(key), table.size());
                let owner = &self.backends[table.get(key)];
                if owner.healthy || self.healthy == 0 {
                    format!("owner of slot {slot} of {size}")
                } else {
                    format!("in place of {}, the unhealthy owner of slot {slot} of {size}", owner.address)
                }
            }
            (_, Balance::RoundRobin) => "next in the round, if no other flow comes first".to_owned(),
            (_, Balance::LeastConn) => "the fewest active flows for its weight".to_owned(),
            (_, Balance::Sed) => "the shortest expected delay".to_owned(),
            (_, Balance::Nq) if self.backends[index].active.load(Relaxed) == 0 => "idle".to_owned(),
            (_, Balance::Nq) => "the shortest expected delay, as none is idle".to_owned(),
            (_, Balance::P2c) => "the less loaded of two drawn at random; the next flow may draw others".to_owned(),
            _ => "drawn at random; the next flow may draw another".to_owned(),
        }
    }

    const fn retry_choice(&self) -> &'static str {
        match self.balance {
            Balance::Maglev | Balance::SourceHash => "next in the order of this client's hash",
            Balance::Random => "drawn at random from those not tried",
            Balance::RoundRobin => "next in the round",
            Balance::LeastConn => "the fewest active flows of those not tried",
            Balance::P2c => "the less loaded of two not tried",
            Balance::Sed => "the shortest expected delay of those not tried",
            Balance::Nq => "an idle one of those not tried, else the one of the shortest expected delay",
        }
    }
}
