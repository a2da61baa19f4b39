//! When another backend is tried: the policy of a pool, and the attempts of one flow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use crate::budget::Budget;
use crate::pool::{BackendState, Pool};
use crate::rng::Rng;

/// The most tries that a policy may permit.
pub const MAX_TRIES: u8 = 16;
/// The longest connect timeout and deadline that a policy may have.
pub const MAX_DEADLINE: Duration = Duration::from_secs(3600);
/// The most tokens that one flow may add to the budget.
pub const MAX_BUDGET_RATIO: f32 = 100.0;
/// Wait before the only backend of a pool is tried a second time; doubled before each further try.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(25);

/// When and how often another backend is tried.
///
/// Defaults: common clients give up after 1 s or more, so `deadline` leaves them 100 ms; a Pod network answers a SYN in
/// under 10 ms, so 250 ms without an answer is a lost packet or a dead node.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Dial attempts of one flow, the first included (1 to [`MAX_TRIES`]).
    pub tries: u8,
    /// How long one attempt may take.
    pub connect_timeout: Duration,
    /// How long all attempts of a flow may take together, waits included.
    pub deadline: Duration,
    /// Retries that each new flow allows, on average; the load on the survivors grows at most by this factor.
    pub budget_ratio: f32,
    /// Retries that are allowed without recent traffic.
    pub budget_reserve: u32,
    /// Hold the first client bytes and send them to another backend if the first one ends before it sent anything.
    pub replay: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 4,
            connect_timeout: Duration::from_millis(250),
            deadline: Duration::from_millis(900),
            budget_ratio: 1.0,
            budget_reserve: 100,
            replay: false,
        }
    }
}

impl RetryPolicy {
    /// Says what is wrong with the policy, naming the field, or nothing.
    ///
    /// # Errors
    /// One clause for a message, such as `tries must be 1 to 16, not 0`.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_TRIES).contains(&self.tries) {
            return Err(format!("tries must be 1 to {MAX_TRIES}, not {}", self.tries));
        }
        for (field, value) in [("connect_timeout", self.connect_timeout), ("deadline", self.deadline)] {
            // Below a millisecond no dial can succeed, and timers are that coarse.
            if value < Duration::from_millis(1) || value > MAX_DEADLINE {
                let (seconds, most) = (value.as_secs_f64(), MAX_DEADLINE.as_secs());
                return Err(format!("{field} must be 0.001 to {most} seconds, not {seconds}"));
            }
        }
        if !(0.0..=MAX_BUDGET_RATIO).contains(&self.budget_ratio) {
            let ratio = self.budget_ratio;
            return Err(format!("budget_ratio must be 0 to {MAX_BUDGET_RATIO}, not {ratio}"));
        }
        Ok(())
    }

    /// How long to wait for the answer to a dial with the client's own address, of the `timeout` that the attempt may take:
    /// the rest is for the same backend from this machine's address. Shorter than for a backend of which nothing else is
    /// to be tried, and still ten times what a Pod network takes by the defaults.
    #[must_use]
    pub fn kept_source_wait(&self, timeout: Duration) -> Duration {
        (self.connect_timeout * 2 / 5).min(timeout / 2)
    }
}

/// What a flow does next about its backend.
#[derive(Clone, Debug)]
pub enum Next {
    /// Dial `backend`, after waiting `after` (zero unless the pool's only backend is tried again), for `timeout` at most.
    Try {
        /// The backend to dial.
        backend: Arc<BackendState>,
        /// How long the attempt may take, counted from the end of `after`.
        timeout: Duration,
        /// How long to wait before dialling.
        after: Duration,
    },
    /// No further attempt.
    GiveUp(Reason),
}

/// Why a flow gets no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The pool has no backend that takes flows.
    NoBackend,
    /// Every backend was tried.
    AllTried,
    /// The policy permits no more tries.
    TriesUsed,
    /// The flow's deadline has passed, or would pass before the next attempt.
    Deadline,
    /// The pool's retry budget is empty.
    Budget,
    /// This process may not dial as the flow needs it.
    NotPermitted,
}

impl Reason {
    /// A short text for events and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoBackend => "the pool has no backend",
            Self::AllTried => "every backend was tried",
            Self::TriesUsed => "the permitted tries are used up",
            Self::Deadline => "the deadline passed",
            Self::Budget => "the retry budget is empty",
            Self::NotPermitted => "marks and kept client addresses need CAP_NET_ADMIN, which this process lacks",
        }
    }
}

/// The attempts of one flow. Pure state: the caller dials, waits, and asks again after a failure.
///
/// It deposits into the pool's budget at the first attempt and takes from it at each further one; it touches no other
/// counter.
#[derive(Clone, Debug)]
pub struct Dial {
    started: Duration,
    /// The attempt under way; joins `tried` when it has failed, so that a flow without a retry allocates nothing.
    current: Option<SocketAddr>,
    tried: Vec<SocketAddr>,
    tries: u8,
    /// Attempts that repeated the only backend.
    repeats: u8,
}

impl Dial {
    /// A flow that began at `started` on the caller's monotonic clock.
    #[must_use]
    pub const fn new(started: Duration) -> Self {
        Self { started, current: None, tried: Vec::new(), tries: 0, repeats: 0 }
    }

    /// When the flow began.
    #[must_use]
    pub const fn started(&self) -> Duration {
        self.started
    }

    /// The backend that was reached ended before it sent anything: the deadline counts anew, the tries do not.
    pub const fn restart(&mut self, now: Duration) {
        self.started = now;
    }

    /// Attempts so far.
    #[must_use]
    pub const fn tries(&self) -> u8 {
        self.tries
    }

    /// Chooses the first backend, or the next one after a failure. `pool` may be a newer generation each time.
    pub fn next(&mut self, pool: &Pool, client: SocketAddr, now: Duration, rng: &mut Rng) -> Next {
        if let Some(failed) = self.current.take()
            && !self.tried.contains(&failed)
        {
            self.tried.push(failed);
        }
        match self.choose(pool, client, now, rng) {
            Ok(next) => next,
            Err(reason) => Next::GiveUp(reason),
        }
    }

    /// The backend of the current attempt once more, without a pause, because the failure may not be its own: how long that
    /// attempt may take. It counts as a try, and yet neither the policy's tries nor its budget can refuse it: it puts load on no
    /// other backend. None: the deadline has passed, or the backend takes no flows any more.
    pub fn again(&mut self, pool: &Pool, now: Duration) -> Option<Duration> {
        let current = self.current?;
        let left = (self.started + pool.retry.deadline).saturating_sub(now);
        if left.is_zero() || !pool.usable().iter().any(|backend| backend.address == current) {
            return None;
        }
        self.tries = self.tries.saturating_add(1);
        Some(self.time_of_attempt(pool, left))
    }

    fn choose(&mut self, pool: &Pool, client: SocketAddr, now: Duration, rng: &mut Rng) -> Result<Next, Reason> {
        let policy = &pool.retry;
        if pool.usable().is_empty() {
            return Err(Reason::NoBackend);
        }
        if self.tries >= policy.tries {
            return Err(Reason::TriesUsed);
        }
        let backend = pool.pick_for(client, &self.tried, now, rng).ok_or(Reason::AllTried)?;
        let repeated = self.tried.contains(&backend.address);
        let after = if repeated { FIRST_BACKOFF * (1 << self.repeats) } else { Duration::ZERO };
        let left = (self.started + policy.deadline).saturating_sub(now).saturating_sub(after);
        if left.is_zero() {
            return Err(Reason::Deadline);
        }
        if self.tries == 0 {
            pool.state.budget.deposit(policy);
        } else if !pool.state.budget.take(policy, now) {
            return Err(Reason::Budget);
        }
        self.tries += 1;
        self.repeats += u8::from(repeated);
        self.current = Some(backend.address);
        Ok(Next::Try { backend: Arc::clone(&backend.state), timeout: self.time_of_attempt(pool, left), after })
    }

    /// Nothing is saved for later when there is no later.
    fn time_of_attempt(&self, pool: &Pool, left: Duration) -> Duration {
        if self.is_last(pool) { left } else { left.min(pool.retry.connect_timeout) }
    }

    /// Whether no attempt can follow the current one: the tries are used, or no other backend is left.
    fn is_last(&self, pool: &Pool) -> bool {
        let usable = pool.usable();
        self.tries >= pool.retry.tries
            || usable.len() > 1
                && usable.len() <= MAX_TRIES.into()
                && usable.iter().all(|b| Some(b.address) == self.current || self.tried.contains(&b.address))
    }
}
