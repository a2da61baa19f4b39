//! UDP: sessions between clients and backends, each served by one worker.
//!
//! What a session shares with a connection is elsewhere: picking (`spliceway_core::retry`), routes, counters, drains.
//!
//! - `table`: who talks with whom, in the order of last use; `key`: what tells them apart; `session`: what is kept of each
//! - `clients`: from listeners to backends; `backends`: picking one, and another when it refuses
//! - `repetition`: clients that ask again and are not heard with their own address
//! - `replies`: from backends to clients, with the address that was dialled as source
//! - `ends`: idle sessions, bounds, backends that left, drains; `moved`: which pools lost backends
//!
//! Datagrams are read and sent in batches, and never wait: what the kernel has no room for is dropped and counted.

mod backends;
mod clients;
mod ends;
mod key;
mod moved;
mod repetition;
mod replies;
mod session;
mod table;

use std::net::IpAddr;
use std::time::Duration;

use spliceway_io::thread;
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
    /// Sessions that all workers together may have.
    limit: usize,
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
            limit: session_limit(config),
            no_ports: None,
        }
    }

    /// How long to wait at most until something of UDP is due.
    pub(crate) fn wait(&self, now: Duration) -> Option<Duration> {
        let ends = self.sessions.next_end().map(|end| (end + END_STEP).saturating_sub(now));
        [ends, self.outbox.wait(now)].into_iter().flatten().min()
    }
}

/// A session has a descriptor. A quarter of them is left to connections and to the host, which would be helpless.
fn session_limit(config: &Config) -> usize {
    let descriptors = thread::descriptor_limit().map_or(usize::MAX, |limit| limit - limit / 4);
    config.max_sessions.min(descriptors).max(1)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::IntoRawFd;
    use std::time::{Duration, Instant};

    use spliceway_core::pool::{BackendSpec, Balance, PoolSpec};
    use spliceway_core::retry::RetryPolicy;

    use crate::engine::Batch;
    use crate::shared::Message;
    use crate::{Config, Engine};

    /// A bug in one worker must cost its own sessions only: they end, their counters too, and the next datagram begins a
    /// new one.
    #[test]
    fn a_worker_that_panics_serves_its_listeners_again() {
        let backend = UdpSocket::bind("127.0.0.1:0").unwrap();
        let backends = vec![BackendSpec { address: backend.local_addr().unwrap(), weight: 1, healthy: true }];
        std::thread::spawn(move || {
            let mut datagram = [0; 100];
            while let Ok((size, client)) = backend.recv_from(&mut datagram) {
                let _ = backend.send_to(&datagram[..size], client);
            }
        });
        let engine = Engine::new(Config { workers: 1, ..Config::default() }).unwrap();
        engine.start().unwrap();
        let (name, balance, retry) = ("p".into(), Balance::Maglev, RetryPolicy::default());
        let spec = PoolSpec { name, balance, retry, drain: None, affinity: None, backends };
        engine.apply(Batch { upserts: vec![spec], generation: 1, ..Batch::default() }).unwrap();
        let listener = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        engine.add_listener(listener.into_raw_fd(), "p").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ask = || client.send_to(b"x", address).and_then(|_| client.recv(&mut [0; 100]));
        assert_eq!(ask().unwrap(), 1);
        engine.shared().doors[0].send(Message::Panic);
        let until = Instant::now() + Duration::from_secs(10);
        while engine.counters(false).worker_panics == 0 || engine.counters(false).sessions > 0 {
            assert!(Instant::now() < until, "sessions must not stay counted");
            std::thread::yield_now();
        }
        assert_eq!(ask().unwrap(), 1);
        let counters = engine.counters(true);
        assert_eq!((counters.sessions, counters.pools[0].flows, counters.pools[0].active), (1, 2, 1));
        engine.close(Duration::from_secs(5));
        assert_eq!(engine.counters(false).sessions, 0);
    }
}
