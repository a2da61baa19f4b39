//! An open loop over kept connections: requests at a fixed rate, each timed from the moment when it was due, so that a
//! slow reply cannot hide the requests that waited behind it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::args::Args;
use crate::connection::{self, Connection, Exchange, PATIENCE, Step};
use crate::poll;
use crate::report::Outcome;
use crate::targets::Targets;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Events handled before the clock is looked at again.
const TURN: usize = 8;

/// A `steady` command.
pub struct Load {
    targets: Targets,
    size: usize,
    connections: usize,
    rate: f64,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        let load = Self {
            targets: Targets::from_args(args, None)?,
            size: args.size()?,
            connections: args.value("connections", 32)?,
            rate: args.rate()?.ok_or("--rate is missing: requests per second over all connections")?,
            seconds: args.seconds("seconds", 2.0)?,
            warmup: args.seconds("warmup", 0.3)?,
        };
        if load.connections == 0 {
            return Err("--connections must be at least 1".to_owned());
        }
        Ok(load)
    }
}

/// A kept connection and the requests that are its own: every `lanes`-th one.
struct Lane {
    /// `None` when it has failed; what is due on it from then on fails as well.
    connection: Option<Connection>,
    /// The request under way, or the next one.
    next: u64,
    /// When the request under way left.
    under_way: Option<Instant>,
}

struct Steady<'a> {
    load: &'a Load,
    exchange: Exchange,
    epoll: OwnedFd,
    lanes: Vec<Lane>,
    /// Requests up to this one have been due.
    due: u64,
    /// When the first request is due.
    start: Instant,
    outcome: Outcome,
}

/// Open all connections, make one request on each, then run the load and report what was verified.
pub fn run(load: &Load) -> io::Result<Outcome> {
    poll::be_punctual();
    let mut steady = Steady {
        load,
        exchange: Exchange::new(load.size, false),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        lanes: Vec::new(),
        due: 0,
        start: Instant::now(),
        outcome: Outcome { window: load.seconds, ..Outcome::default() },
    };
    steady.open()?;
    steady.drive()?;
    Ok(steady.outcome)
}

impl Steady<'_> {
    fn open(&mut self) -> io::Result<()> {
        let mut targets = self.load.targets.clone();
        for index in 0..self.load.connections {
            let connection = match Connection::open_waiting(targets.next())? {
                Ok(mut connection) => match connection.exchange(&mut self.exchange) {
                    Ok(()) => Some(connection),
                    Err(kind) => self.refuse(kind),
                },
                Err(kind) => self.refuse(kind),
            };
            if let Some(connection) = &connection {
                connection.stream().set_nonblocking(true)?;
                let token = epoll::EventData::new_u64(index as u64);
                epoll::add(&self.epoll, connection.stream(), token, connection::INTEREST)?;
            }
            self.lanes.push(Lane { connection, next: index as u64, under_way: None });
        }
        self.start = Instant::now();
        Ok(())
    }

    fn refuse(&mut self, kind: &str) -> Option<Connection> {
        self.outcome.error(kind);
        None
    }

    /// The event loop; it ends when the last request has ended.
    fn drive(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(TURN);
        let mut next_tick = self.start + TICK;
        let total = ((self.load.warmup + self.load.seconds).as_secs_f64() * self.load.rate) as u64;
        loop {
            let now = self.pace(total);
            if self.due >= total && self.lanes.iter().all(|lane| lane.under_way.is_none()) {
                return Ok(());
            }
            if now >= next_tick {
                self.expire(now);
                next_tick = now + TICK;
            }
            let wake = if self.due < total { next_tick.min(self.time(self.due)) } else { next_tick };
            poll::wait(&self.epoll, &mut events, Some(wake.saturating_duration_since(Instant::now())))?;
            for event in &events {
                self.ready(event.data.u64() as usize);
            }
        }
    }

    /// When a request is due.
    fn time(&self, request: u64) -> Instant {
        self.start + Duration::from_secs_f64(request as f64 / self.load.rate)
    }

    /// Send what has become due on idle connections; what is due on a busy one leaves behind the reply to the one before.
    /// Returns the time.
    fn pace(&mut self, total: u64) -> Instant {
        let mut now = Instant::now();
        while self.due < total {
            let time = self.time(self.due);
            if time > now {
                break;
            }
            let index = (self.due % self.load.connections as u64) as usize;
            self.due += 1;
            let lane = &self.lanes[index];
            if lane.connection.is_none() {
                self.outcome.error("not-connected");
            } else if lane.under_way.is_none() {
                self.outcome.lag.record(now - time);
                self.send(index, now);
                now = Instant::now();
            }
        }
        now
    }

    fn send(&mut self, index: usize, now: Instant) {
        let lane = &mut self.lanes[index];
        let Some(connection) = &mut lane.connection else { return };
        lane.under_way = Some(now);
        if let Step::Failed(kind) = connection.again(&self.exchange) {
            self.fail(index, kind);
        }
    }

    fn ready(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let Some(connection) = &mut lane.connection else { return };
        if lane.under_way.is_none() {
            // the readiness to write that comes first of all, or something that was not asked for
            if !connection.is_quiet() {
                self.fail(index, "broken-while-idle");
            }
            return;
        }
        match connection.advance(&mut self.exchange) {
            Step::Wait => {}
            Step::Failed(kind) => self.fail(index, kind),
            Step::Done => self.succeed(index),
        }
    }

    fn succeed(&mut self, index: usize) {
        let time = self.time(self.lanes[index].next);
        let lane = &mut self.lanes[index];
        let Some(connection) = &lane.connection else { return };
        if time - self.start >= self.load.warmup {
            self.outcome.requests += 1;
            self.outcome.bytes += self.exchange.size();
            self.outcome.latency.record(connection.answered().saturating_duration_since(time));
            self.outcome.served_by(connection.server(&self.exchange));
        }
        lane.next += self.load.connections as u64;
        lane.under_way = None;
        if lane.next < self.due {
            self.send(index, Instant::now());
        }
    }

    /// The connection is given up, with all requests that are due on it.
    fn fail(&mut self, index: usize, kind: &str) {
        let lane = &mut self.lanes[index];
        self.outcome.error(kind);
        let mut waiting = lane.next + self.load.connections as u64;
        while waiting < self.due {
            self.outcome.error("not-connected");
            waiting += self.load.connections as u64;
        }
        lane.connection = None;
        lane.under_way = None;
    }

    fn expire(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            if self.lanes[index].under_way.is_some_and(|sent| now.saturating_duration_since(sent) > PATIENCE) {
                self.fail(index, "timeout");
            }
        }
    }
}
