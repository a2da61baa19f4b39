//! One relayed connection pair: its sockets, its bytes on the way, and the counters that it holds up.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use spliceway_core::pool::{BackendState, Pool, PoolState};
use spliceway_core::retry::Dial;
use spliceway_core::session::{Session, Side};
use spliceway_io::pipe::Pipe;
use spliceway_io::poll::Interest;

use crate::shared::Shared;
use crate::source::Source;
use crate::table::Table;
use crate::udp::SessionId;

/// Names a flow of one worker. The serial tells it from an earlier flow in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowId {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

const SIDE_BIT: u64 = 1 << 63;
const LISTENER_BIT: u64 = 1 << 62;
const DATAGRAM_BIT: u64 = 1 << 61;
/// The token of a worker's own wake-up.
pub(crate) const WAKER_TOKEN: u64 = u64::MAX;

/// What a token of the poll stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Waker,
    Listener(usize),
    Flow(FlowId, Side),
    /// A listener of datagrams.
    Datagrams(usize),
    Session(SessionId),
}

impl Token {
    /// Indexes have 29 bits; `Config` bounds the flows far below.
    pub(crate) fn encode(self) -> u64 {
        match self {
            Self::Waker => WAKER_TOKEN,
            Self::Listener(number) => LISTENER_BIT | number as u64,
            Self::Flow(FlowId { index, serial }, side) => {
                let side = if side == Side::Backend { SIDE_BIT } else { 0 };
                side | u64::from(index) << 32 | u64::from(serial)
            }
            Self::Datagrams(number) => LISTENER_BIT | DATAGRAM_BIT | number as u64,
            Self::Session(SessionId { index, serial }) => DATAGRAM_BIT | u64::from(index) << 32 | u64::from(serial),
        }
    }

    pub(crate) fn decode(token: u64) -> Self {
        if token == WAKER_TOKEN {
            return Self::Waker;
        }
        let datagram = token & DATAGRAM_BIT != 0;
        if token & LISTENER_BIT != 0 {
            let number = (token & !LISTENER_BIT & !DATAGRAM_BIT) as usize;
            return if datagram { Self::Datagrams(number) } else { Self::Listener(number) };
        }
        if datagram {
            return Self::Session(SessionId { index: ((token & !DATAGRAM_BIT) >> 32) as u32, serial: token as u32 });
        }
        let side = if token & SIDE_BIT != 0 { Side::Backend } else { Side::Client };
        let index = (token & !SIDE_BIT) >> 32;
        Self::Flow(FlowId { index: index as u32, serial: token as u32 }, side)
    }
}

/// Counts a flow as open in its pool and in the engine for as long as it lives, wherever it is.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    pub(crate) pool: Arc<PoolState>,
}

impl Counted {
    pub(crate) fn new(shared: &Arc<Shared>, pool: &Arc<PoolState>) -> Self {
        shared.flows.fetch_add(1, Relaxed);
        pool.flows.fetch_add(1, Relaxed);
        pool.active.fetch_add(1, Relaxed);
        Self { shared: Arc::clone(shared), pool: Arc::clone(pool) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.pool.active.fetch_sub(1, SeqCst);
        self.shared.flows.fetch_sub(1, SeqCst);
        self.shared.check_drains();
    }
}

/// Counts a flow as active on its backend for as long as it is there.
#[derive(Debug)]
pub(crate) struct Serving(pub(crate) Arc<BackendState>);

impl Serving {
    pub(crate) fn new(backend: Arc<BackendState>) -> Self {
        backend.active.fetch_add(1, Relaxed);
        Self(backend)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// An accepted connection that no worker serves yet.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) client: OwnedFd,
    pub(crate) peer: SocketAddr,
    /// The backend is to see the client's address.
    pub(crate) keep_source: bool,
    pub(crate) slot: u32,
    /// The pool when the connection was accepted, or a moment before, if it was emptied then.
    pub(crate) pool: Arc<Pool>,
    pub(crate) counted: Counted,
}

/// The attempts of a flow to get a backend. Kept after success only while another backend could take over.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) dial: Dial,
    pub(crate) client: SocketAddr,
    /// The backend is to see the client's address.
    pub(crate) keep_source: bool,
    /// The pool when the connection was accepted: what serves it if the pool is removed or emptied meanwhile.
    pub(crate) pool: Arc<Pool>,
    /// Numbers the attempts, so that a timer knows whether it is still meant.
    pub(crate) attempt: u32,
    /// Another backend was tried, or the only one once more.
    pub(crate) retried: bool,
    /// The backend of this attempt, whose address it sees, when the attempt began, and when it must be over.
    pub(crate) target: Option<Serving>,
    pub(crate) source: Source,
    pub(crate) began: Duration,
    pub(crate) ends: Duration,
    /// The flow is counted as saved by a retry.
    pub(crate) saved: bool,
    /// Client bytes that another backend would need.
    pub(crate) held: Vec<u8>,
}

impl Dialling {
    /// The pool in `slot` as it is now, if it still has a backend for new flows, or else as it was.
    pub(crate) fn newest_pool<'p>(&'p self, table: &'p Table, slot: u32) -> &'p Arc<Pool> {
        let newest = table.pool(slot).filter(|pool| Arc::ptr_eq(&pool.state, &self.pool.state));
        newest.filter(|pool| !pool.usable().is_empty()).unwrap_or(&self.pool)
    }
}

/// Bytes of one direction between two system calls.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Copied bytes that the destination had no room for; empty, and without memory, most of the time.
    pub(crate) buffer: Vec<u8>,
    /// How much of `buffer` is written.
    pub(crate) start: usize,
    /// Spliced bytes; none while the direction is idle.
    pub(crate) pipe: Option<Pipe>,
    /// Reads in a row that found more than they could take (in splice mode: that found much).
    pub(crate) streak: u8,
    pub(crate) splicing: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) session: Session,
    pub(crate) client: OwnedFd,
    pub(crate) backend: Option<OwnedFd>,
    /// What the poll was told of either socket; `None`: nothing.
    pub(crate) watched: [Option<Interest>; 2],
    /// Client to backend, backend to client.
    pub(crate) lanes: [Lane; 2],
    pub(crate) slot: u32,
    pub(crate) dialling: Option<Box<Dialling>>,
    pub(crate) serving: Option<Serving>,
    pub(crate) counted: Counted,
}

impl Flow {
    /// The socket of `side`, if it is connected.
    pub(crate) fn socket(&self, side: Side) -> Option<BorrowedFd<'_>> {
        match side {
            Side::Client => Some(self.client.as_fd()),
            Side::Backend => self.backend.as_ref().map(AsFd::as_fd),
        }
    }
}

/// Index of a side in `watched`, and of the direction that begins there in `lanes`.
pub(crate) fn at(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Backend => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that decodes wrongly would move one client's bytes to another.
    #[test]
    fn tokens_survive_the_kernel() {
        for index in [0, 1, 0x1fff_ffff] {
            for serial in [0, 7, u32::MAX] {
                for side in [Side::Client, Side::Backend] {
                    let token = Token::Flow(FlowId { index, serial }, side);
                    assert_eq!(Token::decode(token.encode()), token);
                }
                let token = Token::Session(SessionId { index, serial });
                assert_eq!(Token::decode(token.encode()), token);
            }
        }
        assert_eq!(Token::decode(Token::Listener(9).encode()), Token::Listener(9));
        assert_eq!(Token::decode(Token::Datagrams(9).encode()), Token::Datagrams(9));
        assert_eq!(Token::decode(WAKER_TOKEN), Token::Waker);
    }
}
