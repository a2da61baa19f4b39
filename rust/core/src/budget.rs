//! The retry budget: what keeps retries from multiplying the load of an outage.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::retry::RetryPolicy;

/// Tokens are counted in thousandths.
const TOKEN: u64 = 1000;
/// A quiet service has its whole reserve back after so many milliseconds.
const REFILL: u64 = 10_000;
/// Milliseconds between refills; shorter ones would be rounded away.
const REFILL_STEP: u64 = 100;
/// A busy service saves up to this many times its reserve (and no fewer tokens than this).
const CAP_FACTOR: u64 = 10;

/// The retry budget of a pool: a lock-free token bucket shared by all workers.
///
/// It starts with `budget_reserve` tokens. Every new flow adds `budget_ratio`, every retry takes one. Traffic fills it
/// to ten times the reserve at most, so that a long quiet hour does not pay for a retry storm. Time alone refills it to
/// the reserve, within 10 s, so that a service with little traffic recovers after an outage. The policy is an argument
/// because the budget outlives it: it is carried over when a pool is replaced.
#[derive(Debug)]
pub struct Budget {
    /// In thousandths.
    tokens: AtomicU64,
    /// Milliseconds of the caller's clock up to which the refill by time is done.
    refilled: AtomicU64,
}

impl Budget {
    /// A budget that holds the policy's reserve.
    #[must_use]
    pub fn new(policy: &RetryPolicy) -> Self {
        Self { tokens: AtomicU64::new(reserve(policy)), refilled: AtomicU64::new(0) }
    }

    /// Tokens present, rounded down.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Relaxed) / TOKEN
    }

    /// The most tokens that traffic can fill it to.
    #[must_use]
    pub fn cap(policy: &RetryPolicy) -> u64 {
        u64::from(policy.budget_reserve).max(1) * CAP_FACTOR
    }

    /// A new flow began.
    pub fn deposit(&self, policy: &RetryPolicy) {
        self.add((policy.budget_ratio * TOKEN as f32) as u64, Self::cap(policy) * TOKEN);
    }

    /// Takes a token for a retry. False: there is none, do not retry. `now` is the caller's monotonic clock.
    pub fn take(&self, policy: &RetryPolicy, now: Duration) -> bool {
        self.refill(policy, now);
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(TOKEN)).is_ok()
    }

    fn refill(&self, policy: &RetryPolicy, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let since = self.refilled.load(Relaxed);
        let elapsed = now.saturating_sub(since);
        if elapsed < REFILL_STEP || self.refilled.compare_exchange(since, now, Relaxed, Relaxed).is_err() {
            return; // too early, or another worker does it
        }
        let whole = reserve(policy);
        self.add(whole * elapsed.min(REFILL) / REFILL, whole);
    }

    /// Adds up to `limit`; what is above it already stays.
    fn add(&self, amount: u64, limit: u64) {
        if amount > 0 && self.tokens.load(Relaxed) < limit {
            let _ = self
                .tokens
                .fetch_update(Relaxed, Relaxed, |tokens| (tokens < limit).then(|| (tokens + amount).min(limit)));
        }
    }
}

fn reserve(policy: &RetryPolicy) -> u64 {
    u64::from(policy.budget_reserve) * TOKEN
}
