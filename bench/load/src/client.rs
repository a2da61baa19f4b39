//! Small requests: one epoll thread, edge-triggered, drives all connections of `rr`, `crr` and `paced`.

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Keep,
    Connect,
    Paced,
}

/// An `rr`, `crr` or `paced` command.
pub struct Load {
    mode: Mode,
    targets: Targets,
    size: usize,
    connections: usize,
    rate: f64,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(command: &str, args: &mut Args) -> Result<Self, String> {
        let mode = match command {
            "rr" => Mode::Keep,
            "crr" => Mode::Connect,
            _ => Mode::Paced,
        };
        Ok(Self {
            mode,
            targets: Targets::from_args(args, None)?,
            size: args.size()?,
            connections: if mode == Mode::Paced { 0 } else { args.value("connections", 32)? },
            rate: match mode {
                Mode::Paced => args.rate()?.ok_or("--rate is missing: connections per second")?,
                _ => 0.0,
            },
            seconds: args.seconds("seconds", 2.0)?,
            warmup: if mode == Mode::Paced { Duration::ZERO } else { args.seconds("warmup", 0.3)? },
        })
    }
}

struct Client<'a> {
    load: &'a Load,
    targets: Targets,
    exchange: Exchange,
    epoll: OwnedFd,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    dialled: u64,
    start: Instant,
    outcome: Outcome,
}

/// Run the load and report what was verified.
pub fn run(load: &Load) -> io::Result<Outcome> {
    poll::be_punctual();
    let mut client = Client {
        load,
        targets: load.targets.clone(),
        exchange: Exchange::new(load.size, load.mode != Mode::Keep),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        slots: Vec::new(),
        free: Vec::new(),
        dialled: 0,
        start: Instant::now(),
        outcome: Outcome { window: load.seconds, ..Outcome::default() },
    };
    for _ in 0..load.connections {
        client.dial()?;
    }
    client.drive()?;
    Ok(client.outcome)
}

impl Client<'_> {
    /// The event loop. A closed loop ends at the end of its window, an open one when its last request has ended.
    fn drive(&mut self) -> io::Result<()> {
        let end = self.start + self.load.warmup + self.load.seconds;
        let mut events = Vec::with_capacity(512);
        let mut next_tick = self.start + TICK;
        loop {
            let now = Instant::now();
            let next_dial = self.pace(now, end)?;
            if now >= end && (self.load.mode != Mode::Paced || self.free.len() == self.slots.len()) {
                return Ok(());
            }
            if now >= next_tick {
                self.expire(now)?;
                next_tick = now + TICK;
            }
            let wait = next_tick.min(next_dial).min(if now < end { end } else { next_tick });
            poll::wait(&self.epoll, &mut events, Some(wait.saturating_duration_since(now)))?;
            for event in &events {
                self.ready(event.data.u64() as usize)?;
            }
        }
    }

    /// Dial what the open loop's clock says, whether or not earlier requests have ended. Returns the next time.
    fn pace(&mut self, now: Instant, end: Instant) -> io::Result<Instant> {
        if self.load.mode != Mode::Paced {
            return Ok(end);
        }
        loop {
            let due = self.start + Duration::from_secs_f64(self.dialled as f64 / self.load.rate);
            if due > now || due >= end {
                return Ok(due.max(now));
            }
            self.outcome.lag.record(now - due);
            self.dial()?;
        }
    }

    fn dial(&mut self) -> io::Result<()> {
        self.dialled += 1;
        let (connection, connecting) = Connection::open(self.targets.next())?;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        epoll::add(&self.epoll, connection.stream(), epoll::EventData::new_u64(index as u64), connection::INTEREST)?;
        self.slots[index] = Some(connection);
        match connecting {
            Ok(()) => Ok(()),
            Err(kind) => self.fail(index, kind),
        }
    }

    fn ready(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = self.slots.get_mut(index).and_then(Option::as_mut) else { return Ok(()) };
        match connection.advance(&mut self.exchange) {
            Step::Wait => Ok(()),
            Step::Failed(kind) => self.fail(index, kind),
            Step::Done => self.succeed(index),
        }
    }

    fn succeed(&mut self, index: usize) -> io::Result<()> {
        let Some(connection) = self.slots[index].as_mut() else { return Ok(()) };
        let now = connection.answered();
        let since = now - self.start;
        if since >= self.load.warmup && (self.load.mode == Mode::Paced || since < self.load.warmup + self.load.seconds)
        {
            self.outcome.requests += 1;
            self.outcome.bytes += self.exchange.size();
            self.outcome.latency.record(connection.latency());
            self.outcome.served_by(connection.server(&self.exchange));
        }
        tally(&mut self.outcome.timeline, connection.begun - self.start).0 += 1;
        if self.load.mode == Mode::Keep {
            connection.begun = now;
            return match connection.again(&self.exchange) {
                Step::Failed(kind) => self.fail(index, kind),
                _ => Ok(()),
            };
        }
        self.release(index)
    }

    fn fail(&mut self, index: usize, kind: &'static str) -> io::Result<()> {
        self.outcome.error(kind);
        if let Some(connection) = &self.slots[index] {
            tally(&mut self.outcome.timeline, connection.begun - self.start).1 += 1;
        }
        self.release(index)
    }

    /// Close the slot's connection; a closed loop dials anew.
    fn release(&mut self, index: usize) -> io::Result<()> {
        self.slots[index] = None;
        self.free.push(index);
        if self.load.mode == Mode::Paced { Ok(()) } else { self.dial() }
    }

    fn expire(&mut self, now: Instant) -> io::Result<()> {
        for index in 0..self.slots.len() {
            if self.slots[index].as_ref().is_some_and(|connection| now - connection.begun > PATIENCE) {
                self.fail(index, "timeout")?;
            }
        }
        Ok(())
    }
}

/// The counters of the second in which a request began.
pub fn tally(timeline: &mut Vec<(u64, u64)>, since: Duration) -> &mut (u64, u64) {
    let second = since.as_secs() as usize;
    if timeline.len() <= second {
        timeline.resize(second + 1, (0, 0));
    }
    &mut timeline[second]
}
