//! The loop of one thread: wait, serve what is ready, fire timers, read mail. Workers share no flow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use arc_swap::Cache;
use slab::Slab;
use spliceway_core::rng::Rng;
use spliceway_core::session::{Side, Step};
use spliceway_io::pipe::PipePool;
use spliceway_io::poll::{Batch, Interest, Ready};
use spliceway_io::socket;

use crate::accept;
use crate::events::{Event, EventKind};
use crate::flow::{Flow, FlowId, Token, at};
use crate::relay::{self, SCRATCH};
use crate::shared::{Door, Message, Shared};
use crate::table::Table;
use crate::timer::{Due, Timers};
use crate::udp::Udp;

/// Descriptors that one wait reports at most: enough to spread the cost of the call, few enough to stay fair.
const BATCH: usize = 256;

/// A backend that ends so soon after its connect, unasked, has failed; later it has timed an idle client out.
const FRESH: Duration = Duration::from_secs(1);
/// The longest wait, far below what system calls take as a time-out.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long bytes that a peer sent before its reset may wait for the other side; then that side is reset as well.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// What relaying needs beside the flow.
pub(crate) struct Tools {
    pub(crate) shared: Arc<Shared>,
    /// Where bytes pass through on their way from one socket to the other.
    pub(crate) scratch: Box<[u8]>,
    pub(crate) pipes: PipePool,
}

/// See the module's text.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) flows: Slab<Flow>,
    pub(crate) tools: Tools,
    pub(crate) timers: Timers,
    pub(crate) table: Cache<Arc<arc_swap::ArcSwap<Table>>, Arc<Table>>,
    pub(crate) rng: Rng,
    /// The engine's clock, read once after each wait.
    pub(crate) now: Duration,
    pub(crate) serial: u32,
    /// Listeners that are not watched while accepting is paused.
    pub(crate) parked: Vec<usize>,
    pub(crate) paused: bool,
    /// When flows to backends that left are cut next.
    pub(crate) next_cut: Option<Duration>,
    pub(crate) accept_burst: usize,
    pub(crate) udp: Udp,
}

/// Run worker `number` until the engine stops. A panic costs the worker's flows, not the process.
pub(crate) fn run(shared: &Arc<Shared>, number: usize) {
    loop {
        let mut worker = Worker::new(shared, number);
        let outcome = catch_unwind(AssertUnwindSafe(|| worker.serve()));
        let (paused, parked) = (worker.paused, std::mem::take(&mut worker.parked));
        worker.reset_all(); // none is left after an orderly end; after a panic, a cut reply must not look complete
        drop(worker);
        shared.doors[number].load.store(0, Relaxed);
        shared.doors[number].oldest_session.store(u64::MAX, Relaxed);
        match outcome {
            Ok(()) => return,
            Err(panic) => {
                shared.bounds.worker_panics.fetch_add(1, Relaxed);
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panic");
                shared.events.push(Event::new(EventKind::WorkerDied, text));
                if paused {
                    shared.resume();
                }
                let _ = accept::watch(shared, number, &parked);
            }
        }
    }
}

impl Worker {
    fn new(shared: &Arc<Shared>, number: usize) -> Self {
        let pipes = shared.config.max_pipes.div_ceil(shared.doors.len());
        Self {
            number,
            flows: Slab::new(),
            tools: Tools {
                shared: Arc::clone(shared),
                scratch: vec![0; SCRATCH].into_boxed_slice(),
                pipes: PipePool::new(pipes),
            },
            timers: Timers::default(),
            table: Cache::new(Arc::clone(&shared.table)),
            rng: Rng::new(seed(number)),
            now: shared.now(),
            serial: 0,
            parked: Vec::new(),
            paused: false,
            next_cut: None,
            accept_burst: 1,
            udp: Udp::new(&shared.config, seed(number)),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.tools.shared
    }

    pub(crate) fn door(&self) -> &Door {
        &self.tools.shared.doors[self.number]
    }

    fn serve(&mut self) {
        let mut batch = Batch::new(BATCH);
        while !self.shared().stopping.load(Acquire) {
            let due = [self.timers.wait(self.now), self.udp.wait(self.now)].into_iter().flatten().min();
            let wait = due.map(|wait| wait.min(LONGEST_WAIT));
            if self.door().poll.wait(&mut batch, wait).is_err() {
                return; // the poll itself is gone: only at the end of the engine
            }
            self.now = self.shared().now();
            for index in 0..batch.len() {
                if let Some(ready) = batch.get(index) {
                    self.dispatch(ready);
                }
            }
            self.send_answers();
            self.fire();
            self.end_idle_sessions();
            self.publish_oldest_session();
            self.door().load.store(self.flows.len(), Relaxed);
        }
        self.cut_all();
        self.door().discard_mail();
    }

    fn dispatch(&mut self, ready: Ready) {
        match Token::decode(ready.token) {
            Token::Flow(id, side) => self.flow_ready(id, side, ready),
            Token::Listener(number) => self.accept(number),
            Token::Datagrams(number) => self.datagrams_wait(number),
            Token::Session(id) => self.session_ready(id, ready),
            Token::Waker => self.read_mail(),
        }
    }

    fn read_mail(&mut self) {
        for message in self.door().receive() {
            match message {
                Message::Serve(arrival) => self.serve_late_arrival(arrival),
                Message::CutLeavingAt(at) => self.cut_leaving_at(at),
                Message::CutDrainAt(at, drain) => {
                    self.end_quiet_sessions(&drain);
                    self.timers.add(at, Due::CutDrain(drain));
                }
                Message::ForgetEmptiedAt(at) => self.timers.add(at, Due::ForgetEmptied),
                Message::Moved(slots) => self.end_moved_sessions(&slots),
                Message::DatagramsClosed(number) => self.end_sessions_of_listener(number),
                Message::EndOldestSession => drop(self.end_oldest_session()),
                #[cfg(test)]
                Message::Panic => panic!("as the test asked"),
            }
        }
    }

    fn fire(&mut self) {
        while let Some(due) = self.timers.pop(self.now) {
            match due {
                Due::DialTimeout { flow, attempt } => self.dial_timed_out(flow, attempt),
                Due::DialNow { flow, attempt } => self.dial_waited(flow, attempt),
                Due::LastBytes { flow, side } => self.last_bytes_waited(flow, side),
                Due::Unpark => self.unpark(),
                Due::CutLeaving => self.cut_leaving(),
                Due::ForgetEmptied => self.shared().emptied.forget(self.now),
                Due::CutDrain(drain) => self.cut_drain(&drain),
                Due::DialSession { session, attempt } => self.session_waited(session, attempt),
                Due::EndQuiet(drain) => self.end_quiet_sessions(&drain),
            }
        }
    }

    /// The flow of this name, unless it is gone.
    pub(crate) fn flow(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id)
    }

    fn flow_ready(&mut self, id: FlowId, side: Side, ready: Ready) {
        let Some(flow) = self.flows.get_mut(id.index as usize).filter(|flow| flow.id == id) else {
            return;
        };
        if flow.session.dialling() {
            return self.dial_ready(id, side, ready);
        }
        let mut step = Step::Go;
        if side == Side::Backend && flow.dialling.as_ref().is_some_and(|d| self.now > d.began + FRESH) {
            flow.session.settled();
        }
        if ready.readable || ready.failed {
            step = relay::pump(flow, side, ready.ended, &mut self.tools);
        }
        if step == Step::Go && (ready.writable || ready.failed) {
            step = relay::pump(flow, side.peer(), false, &mut self.tools);
        }
        if step == Step::Go && ready.failed {
            step = relay::failed(flow, side, &mut self.tools).unwrap_or_else(|| {
                mute(flow, side, &self.tools.shared.doors[self.number]);
                if flow.session.broken(side) {
                    self.timers.add(self.now + LAST_BYTES, Due::LastBytes { flow: id, side });
                }
                Step::Go
            });
        }
        self.carry_out(id, step);
    }

    /// A peer has reset, and the other one did not take its last bytes in time.
    fn last_bytes_waited(&mut self, id: FlowId, side: Side) {
        if let Some(flow) = self.flow(id) {
            let step = flow.session.read_failed(side);
            self.carry_out(id, step);
        }
    }

    /// Do what the session asked for, and tell the poll what is of interest now.
    pub(crate) fn carry_out(&mut self, id: FlowId, mut step: Step) {
        loop {
            let Some(flow) = self.flow(id) else { return };
            match step {
                Step::Go => break,
                Step::Shutdown(side) => {
                    step = flow.session.after_shutdown();
                    // When both directions have ended, closing says the same with one call less.
                    if step == Step::Go {
                        // It fails only on a connection that was reset meanwhile, which its readiness will tell.
                        let _ = flow.socket(side).map(socket::shutdown_write);
                    }
                }
                Step::Redial => return self.redial(id),
                Step::End(end) => return self.finish(id, end),
            }
        }
        self.watch(id, Side::Client);
        self.watch(id, Side::Backend);
    }

    /// Tell the poll what is of interest about one socket, if that has changed.
    pub(crate) fn watch(&mut self, id: FlowId, side: Side) {
        let Some(flow) = self.flows.get_mut(id.index as usize) else {
            return;
        };
        let wants = flow.session.wants(side);
        let interest = Interest { read: wants.read, write: wants.write };
        let before = flow.watched[at(side)];
        if before == Some(interest) || before.is_none() && interest == Interest::NONE {
            return;
        }
        flow.watched[at(side)] = Some(interest);
        let Some(fd) = flow.socket(side) else { return };
        let token = Token::Flow(id, side).encode();
        let poll = &self.tools.shared.doors[self.number].poll;
        let told = if before.is_none() { poll.add(fd, token, interest) } else { poll.set(fd, token, interest) };
        if told.is_err() {
            // At the user's limit of watches a flow cannot be served; nothing else can fail.
            let step = flow.session.cut();
            self.carry_out(id, step);
        }
    }
}

/// Hear nothing of a socket until its interest changes.
fn mute(flow: &mut Flow, side: Side, door: &Door) {
    if flow.watched[at(side)].take().is_some()
        && let Some(fd) = flow.socket(side)
    {
        let _ = door.poll.remove(fd);
    }
}

/// Each worker draws differently, and each run as well.
fn seed(number: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(number)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
