//! The relay: drives one session between two peers on a virtual clock, as the engine does on the real one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use spliceway_core::hash::mix;
use spliceway_core::pool::Pool;
use spliceway_core::retry::{Dial, Next};
use spliceway_core::rng::Rng;
use spliceway_core::session::{End, Session, Side, Step, Wants};

use super::peer::{Peer, Read, Write};

/// Salt of the client's bytes.
pub(super) const CLIENT: u64 = 0xc11e;

/// An attempt to connect that is under way.
#[derive(Debug)]
pub(super) struct Attempt {
    /// When its outcome is known.
    due: Duration,
    succeeds: bool,
}

/// What the relay saw of one side, for the shadow model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes read from it and written to it, since it was connected.
    pub(super) read: usize,
    pub(super) written: usize,
    pub(super) end: bool,
    pub(super) failed: bool,
}

pub struct Relay<'a> {
    pub(super) session: Session,
    pub(super) client: Peer,
    pub(super) backend: Option<Peer>,
    pub(super) attempt: Option<Attempt>,
    pub(super) dial: Dial,
    pub(super) pool: &'a Pool,
    address: SocketAddr,
    pub(super) hold_limit: usize,
    pub(super) held: Vec<u8>,
    /// Bytes of client and backend that wait to be written.
    pub(super) lanes: [Vec<u8>; 2],
    /// What the poll watches; `None`: nothing, not even failure.
    watched: [Option<Wants>; 2],
    pub(super) seen: [Seen; 2],
    pub now: Duration,
    pub(super) cut_at: Duration,
    /// Reset noticed by a write, all that the reset side had sent must be passed on.
    pub(super) write_failed: Option<Side>,
    pub end: Option<End>,
    pub redials: usize,
}

pub(super) const fn at(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Backend => 1,
    }
}

impl<'a> Relay<'a> {
    pub fn new(pool: &'a Pool, now: Duration, rng: &mut Rng) -> Self {
        let hold_limit = [0, 20, 500][rng.below(3) as usize];
        let cut_at =
            if rng.below(4) == 0 { now + Duration::from_millis(rng.below(3000).into()) } else { Duration::MAX };
        let mut relay = Self {
            session: Session::new(hold_limit as u32),
            client: Peer::new(CLIENT, rng),
            backend: None,
            attempt: None,
            dial: Dial::new(now),
            pool,
            address: (Ipv4Addr::from_bits(rng.below(u32::MAX)), 40_000).into(),
            hold_limit,
            held: Vec::new(),
            lanes: [Vec::new(), Vec::new()],
            watched: [None; 2],
            seen: [Seen::default(); 2],
            now,
            cut_at,
            write_failed: None,
            end: None,
            redials: 0,
        };
        relay.dial(rng);
        relay
    }

    /// Some time passes, peers act, what is due and ready is served.
    pub fn step(&mut self, calm: bool, rng: &mut Rng) {
        self.now += Duration::from_millis(rng.below(20).into());
        let backend_salt = self.backend.as_ref().map_or(0, |backend| backend.salt);
        self.client.act(calm, backend_salt, rng);
        if let Some(backend) = &mut self.backend {
            backend.act(calm, CLIENT, rng);
        }
        if self.now >= self.cut_at {
            let step = self.session.cut();
            return self.carry_out(step, rng);
        }
        self.serve_attempt(rng);
        for side in if rng.below(2) == 0 { [Side::Client, Side::Backend] } else { [Side::Backend, Side::Client] } {
            if self.end.is_none() && !self.session.dialling() {
                self.serve(side, rng);
            }
            self.check();
        }
    }

    fn dial(&mut self, rng: &mut Rng) {
        match self.dial.next(self.pool, self.address, self.now, rng) {
            Next::GiveUp(_) => {
                let step = self.session.gave_up();
                self.carry_out(step, rng);
            }
            Next::Try { timeout, after, .. } => {
                assert!(self.now + after + timeout <= self.dial.started() + self.pool.retry.deadline);
                // A third connects, a third is refused, a third is lost on the way.
                let took = timeout.mul_f64(f64::from(rng.below(100)) / 100.0);
                let (took, succeeds) = [(took, true), (took, false), (timeout, false)][rng.below(3) as usize];
                self.attempt = Some(Attempt { due: self.now + after + took, succeeds });
            }
        }
    }

    fn serve_attempt(&mut self, rng: &mut Rng) {
        let Some(attempt) = self.attempt.take_if(|attempt| attempt.due <= self.now) else { return };
        if !attempt.succeeds {
            return self.dial(rng);
        }
        self.backend = Some(Peer::new(mix(rng.next_u64(), 1), rng));
        self.session.connected();
        self.carry_out(Step::Go, rng);
    }

    pub(super) fn peer(&mut self, side: Side) -> &mut Peer {
        match (side, &mut self.backend) {
            (Side::Client, _) | (Side::Backend, None) => &mut self.client,
            (Side::Backend, Some(backend)) => backend,
        }
    }

    /// Serves one side as its readiness asks, if the poll would report it.
    fn serve(&mut self, side: Side, rng: &mut Rng) {
        let Some(watched) = self.watched[at(side)] else { return };
        let ready = self.peer(side).readiness();
        let (readable, writable) = (watched.read && ready.readable, watched.write && ready.writable);
        if !readable && !writable && !ready.failed {
            return;
        }
        let before = self.progress();
        let mut step = Step::Go;
        if readable || ready.failed {
            step = self.pump(side, rng);
        }
        if step == Step::Go && (writable || ready.failed) {
            step = self.pump(side.peer(), rng);
        }
        if step == Step::Go && ready.failed {
            step = self.failed(side);
        }
        self.carry_out(step, rng);
        // A level-triggered poll reports the same again at once: a step that changes nothing would spin.
        assert!(self.end.is_some() || before != self.progress(), "{side:?} {ready:?} {watched:?} changed nothing");
    }

    /// Equal before and after something that changed nothing.
    fn progress(&self) -> ([Seen; 2], [Option<Wants>; 2], usize) {
        (self.seen, self.watched, self.redials)
    }

    fn failed(&mut self, side: Side) -> Step {
        if self.session.takes(side) && self.peer(side).take_error() {
            return self.write_failed(side);
        }
        if self.session.may_read(side) {
            return Step::Go;
        }
        if self.session.pending(side) > 0 {
            self.watched[at(side)] = None;
            return Step::Go;
        }
        self.session.read_failed(side)
    }

    fn pump(&mut self, from: Side, rng: &mut Rng) -> Step {
        let step = self.flush(from, rng);
        if step != Step::Go {
            return step;
        }
        for _ in 0..=rng.below(3) {
            if !self.session.may_read(from) {
                break;
            }
            match self.peer(from).read(64, rng) {
                Read::Again => break,
                Read::End => {
                    self.seen[at(from)].end = true;
                    return self.session.read_end(from);
                }
                Read::Failed => {
                    self.seen[at(from)].failed = true;
                    return self.session.read_failed(from);
                }
                Read::Bytes(bytes) => self.took(from, bytes),
            }
            let step = self.flush(from, rng);
            if step != Step::Go {
                return step;
            }
        }
        Step::Go
    }

    fn took(&mut self, from: Side, bytes: Vec<u8>) {
        let holding = self.session.holding();
        self.session.read(from, bytes.len());
        self.seen[at(from)].read += bytes.len();
        if !self.session.holding() {
            self.held.clear();
        } else if holding && from == Side::Client {
            self.held.extend(&bytes);
        }
        self.lanes[at(from)] = bytes;
    }

    fn flush(&mut self, from: Side, rng: &mut Rng) -> Step {
        while self.session.pending(from) > 0 {
            let (to, lane) = (from.peer(), std::mem::take(&mut self.lanes[at(from)]));
            assert_eq!(lane.len(), self.session.pending(from));
            match self.peer(to).write(&lane, rng) {
                Write::Again => {
                    self.lanes[at(from)] = lane;
                    break;
                }
                Write::Failed => return self.write_failed(to),
                Write::Accepted(n) => {
                    self.seen[at(to)].written += n;
                    self.lanes[at(from)] = lane[n..].to_vec();
                    let step = self.session.written(from, n);
                    if step != Step::Go {
                        return step;
                    }
                }
            }
        }
        Step::Go
    }

    fn write_failed(&mut self, side: Side) -> Step {
        self.seen[at(side)].failed = true;
        self.write_failed = Some(side);
        self.lanes[at(side.peer())].clear();
        let ended = self.peer(side).fin;
        self.session.write_failed(side, ended)
    }

    fn carry_out(&mut self, mut step: Step, rng: &mut Rng) {
        loop {
            match step {
                Step::Go => break,
                Step::Shutdown(side) => {
                    self.check_shutdown(side);
                    self.peer(side).shut = true;
                    step = self.session.after_shutdown();
                }
                Step::Redial => {
                    self.redial();
                    return self.dial(rng);
                }
                Step::End(end) => {
                    self.check_end(end);
                    self.end = Some(end);
                    return;
                }
            }
        }
        for side in [Side::Client, Side::Backend] {
            let wants = self.session.wants(side);
            assert!(!wants.read || self.session.may_read(side));
            if self.watched[at(side)].is_some() || wants != Wants::default() {
                self.watched[at(side)] = Some(wants);
            }
        }
    }

    fn redial(&mut self) {
        self.check_redial();
        self.redials += 1;
        self.backend = None;
        self.watched = [None; 2];
        self.seen[1] = Seen::default();
        self.seen[0].end = false; // the client's end is told again
        self.write_failed = None;
        self.lanes = [self.held.clone(), Vec::new()];
    }
}
