//! A pool as it is asked for, and what is wrong with it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::maglev::MAX_BACKENDS;
use crate::retry::RetryPolicy;

/// Pins are timed in milliseconds.
const LEAST_AFFINITY: Duration = Duration::from_millis(1);
/// 30 days: pins keep milliseconds in 32 bits, which end after 49. The Kubernetes API allows a day.
const MOST_AFFINITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// By consistent hash of the client's address.
    #[default]
    Maglev,
    /// At random.
    Random,
    /// In turns.
    RoundRobin,
    /// The one with the fewest active flows.
    LeastConn,
    /// The less loaded of two drawn at random.
    P2c,
    /// By consistent hash of the client's IP address, without its port.
    SourceHash,
    /// The one with the shortest expected delay: the load with the new flow, over the weight (as IPVS has it). Least-conn
    /// counts the new flow as well, so both are one scheduler.
    Sed,
    /// An idle one if there is one, else that of the shortest expected delay: never queue (as IPVS has it).
    Nq,
}

impl Balance {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Maglev,
        Self::Random,
        Self::RoundRobin,
        Self::LeastConn,
        Self::P2c,
        Self::SourceHash,
        Self::Sed,
        Self::Nq,
    ];

    /// The name that users write.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastConn => "least-conn",
            Self::P2c => "p2c",
            Self::SourceHash => "source-hash",
            Self::Sed => "sed",
            Self::Nq => "nq",
        }
    }

    /// Whether backends are found by a hash, in a table that does not change with health.
    #[inline]
    pub(crate) const fn is_hashed(self) -> bool {
        matches!(self, Self::Maglev | Self::SourceHash)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is none of those in [`Balance::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("balance must be one of maglev, random, round-robin, least-conn, p2c, source-hash, sed, nq, not {0:?}")]
pub struct UnknownBalance(pub String);

impl FromStr for Balance {
    type Err = UnknownBalance;

    fn from_str(name: &str) -> Result<Self, UnknownBalance> {
        let found = Self::ALL.into_iter().find(|balance| balance.as_str() == name);
        found.ok_or_else(|| UnknownBalance(name.to_owned()))
    }
}

/// A backend as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSpec {
    /// Where to dial.
    pub address: SocketAddr,
    /// Relative share of new flows; 0 takes none.
    pub weight: u16,
    /// False: use it only when nothing better is left.
    pub healthy: bool,
}

/// Clients (by IP) stay with their backend until `timeout` after their last new flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinitySpec {
    /// Pools of one group share what is remembered.
    pub group: String,
    /// How long a client is remembered after its last new flow.
    pub timeout: Duration,
}

/// A pool as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// The service port, or the user's own name. Identifies the pool across generations.
    pub name: String,
    /// How a backend is chosen.
    pub balance: Balance,
    /// When another backend is tried.
    pub retry: RetryPolicy,
    /// How long flows to a removed backend may still run; None: until they end.
    pub drain: Option<Duration>,
    /// Whether clients stay with their backend; None: every flow is balanced anew.
    pub affinity: Option<AffinitySpec>,
    /// In any order.
    pub backends: Vec<BackendSpec>,
}

/// Why a pool cannot be built. Texts name the pool and the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A pool must have a name.
    #[error("a pool has an empty name; give it one")]
    NoName,
    /// The backend cannot be dialled.
    #[error("pool {pool}: backend {address}: {problem}")]
    Address {
        /// Name of the pool.
        pool: String,
        /// The backend.
        address: SocketAddr,
        /// What is wrong with the address.
        problem: &'static str,
    },
    /// One address is given twice with different weight or health.
    #[error("pool {pool}: backend {address} is given twice with different weight or health; keep one")]
    Conflict {
        /// Name of the pool.
        pool: String,
        /// The backend.
        address: SocketAddr,
    },
    /// More backends than a table can number.
    #[error("pool {pool}: {count} backends are more than {MAX_BACKENDS}; split the pool")]
    TooMany {
        /// Name of the pool.
        pool: String,
        /// How many were given.
        count: usize,
    },
    /// Session affinity that cannot work.
    #[error("pool {pool}: affinity: {problem}")]
    Affinity {
        /// Name of the pool.
        pool: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A value of the retry policy is out of range.
    #[error("pool {pool}: {problem}")]
    Retry {
        /// Name of the pool.
        pool: String,
        /// Names the field.
        problem: String,
    },
}

/// Refuses what cannot work; canonicalizes addresses; merges backends given twice alike.
pub(crate) fn check(spec: &mut PoolSpec) -> Result<(), SpecError> {
    if spec.name.is_empty() {
        return Err(SpecError::NoName);
    }
    let pool = || spec.name.clone();
    spec.retry.validate().map_err(|problem| SpecError::Retry { pool: pool(), problem })?;
    if let Some(problem) = spec.affinity.as_ref().and_then(affinity_problem) {
        return Err(SpecError::Affinity { pool: pool(), problem });
    }
    for backend in &mut spec.backends {
        let address = backend.address;
        backend.address.set_ip(address.ip().to_canonical());
        if let Some(problem) = address_problem(backend.address) {
            return Err(SpecError::Address { pool: pool(), address, problem });
        }
    }
    spec.backends.sort_unstable_by_key(|b| b.address);
    spec.backends.dedup();
    let conflict = spec.backends.windows(2).find(|pair| pair[0].address == pair[1].address);
    if let Some([backend, _]) = conflict {
        return Err(SpecError::Conflict { pool: pool(), address: backend.address });
    }
    match spec.backends.len() {
        0..=MAX_BACKENDS => Ok(()),
        count => Err(SpecError::TooMany { pool: pool(), count }),
    }
}

fn affinity_problem(affinity: &AffinitySpec) -> Option<&'static str> {
    if affinity.group.is_empty() {
        Some("group must not be empty; name the service port")
    } else if affinity.timeout < LEAST_AFFINITY || affinity.timeout > MOST_AFFINITY {
        Some("timeout must be 0.001 to 2592000 seconds (30 days)")
    } else {
        None
    }
}

fn address_problem(address: SocketAddr) -> Option<&'static str> {
    let ip = address.ip();
    if address.port() == 0 {
        Some("port must be 1 to 65535, not 0")
    } else if ip.is_unspecified() {
        Some("the unspecified address cannot be dialled; name a host")
    } else if ip.is_multicast() || ip == std::net::Ipv4Addr::BROADCAST {
        Some("multicast and broadcast addresses cannot be dialled; name a host")
    } else {
        None
    }
}
