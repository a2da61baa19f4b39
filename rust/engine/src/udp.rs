//! UDP: sessions between clients and backends, each served by one worker.
//!
//! - `table`: who talks with whom, in the order of last use; `session`: what is kept of each
//! - `clients`: from listeners to backends; `backends`: picking one, and another when it refuses
//! - `replies`: from backends to clients, with the address that was dialled as source
//! - `ends`: idle sessions, bounds, backends that left, drains; `moved`: which pools lost backends
//!
//! Datagrams are read and sent in batches, and never wait: what the kernel has no room for is dropped and counted.

mod backends;
mod clients;
mod ends;
mod moved;
mod replies;
mod session;
mod table;

use std::net::IpAddr;
use std::time::Duration;

use spliceway_io::udp::{ReceiveBatch, SendBatch};

use crate::config::Config;
use clients::Gathered;
pub(crate) use moved::moved;
use replies::Outbox;
pub(crate) use session::Session;
pub(crate) use table::SessionId;
use table::Sessions;

/// Datagrams that are read in one go: enough to spread the cost of the call, few enough to be fair to others.
const BATCH: usize = 32;
/// Ends of idle sessions are looked for no more often than this.
const END_STEP: Duration = Duration::from_millis(10);

/// What one worker has of UDP. Buffers are made when the first datagram comes.
#[derive(Debug)]
pub(crate) struct Udp {
    pub(crate) sessions: Sessions<Session>,
    /// Datagrams of clients.
    inbox: Option<Box<ReceiveBatch>>,
    gathered: Gathered,
    /// Datagrams of backends, which leave together.
    outbox: Outbox,
    sender: SendBatch,
    /// Until when no port is asked for, of this source address (none: our own), because all are in use.
    no_ports: Option<(Option<IpAddr>, Duration)>,
}

impl Udp {
    /// `secret`: any number that clients do not know.
    pub(crate) fn new(config: &Config, secret: u64) -> Self {
        Self {
            sessions: Sessions::new(config.udp_timeout, config.udp_stream_timeout, secret),
            inbox: None,
            gathered: Gathered::default(),
            outbox: Outbox::default(),
            sender: SendBatch::new(BATCH),
            no_ports: None,
        }
    }

    /// How long to wait at most until something of UDP is due.
    pub(crate) fn wait(&self, now: Duration) -> Option<Duration> {
        let ends = self.sessions.next_end().map(|end| (end + END_STEP).saturating_sub(now));
        [ends, self.outbox.wait(now)].into_iter().flatten().min()
    }
}
