//! One new connection at a time (`connect`), each from its dial to the whole reply.

use std::io;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::connection::{Connection, Exchange};
use crate::poll;
use crate::report::Outcome;
use crate::targets::Targets;

/// A `connect` command.
pub struct Load {
    targets: Targets,
    size: usize,
    /// `None`: as fast as they come.
    rate: Option<f64>,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        Ok(Self {
            targets: Targets::from_args(args, Some(1))?,
            size: args.size()?,
            rate: args.rate()?,
            seconds: args.seconds("seconds", 2.0)?,
            warmup: args.seconds("warmup", 0.3)?,
        })
    }
}

/// Run the load and report what was verified.
pub fn run(load: &Load) -> io::Result<Outcome> {
    poll::be_punctual();
    let mut outcome = Outcome { window: load.seconds, ..Outcome::default() };
    let mut exchange = Exchange::new(load.size, true);
    let mut targets = load.targets.clone();
    let start = Instant::now();
    let begin = start + load.warmup;
    let end = begin + load.seconds;
    let gap = load.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(rate.recip()));
    let mut due = start;
    loop {
        // one that took longer than the gap delays the next one, and there is no hurry afterwards
        let now = sleep_until(due.max(Instant::now()), &mut outcome);
        if now >= end {
            return Ok(outcome);
        }
        due = due.max(now - gap) + gap;
        let made = Connection::open_waiting(targets.next())?
            .and_then(|mut connection| connection.exchange(&mut exchange).map(|()| connection));
        match made {
            Err(kind) => outcome.error(kind),
            Ok(connection) if connection.begun >= begin => {
                outcome.requests += 1;
                outcome.bytes += exchange.size();
                outcome.latency.record(connection.latency());
                outcome.served_by(connection.server(&exchange));
            }
            Ok(_) => {}
        }
    }
}

/// Sleep until `due`; returns the time then.
fn sleep_until(due: Instant, outcome: &mut Outcome) -> Instant {
    let wait = due.saturating_duration_since(Instant::now());
    if wait.is_zero() {
        return due;
    }
    std::thread::sleep(wait);
    let now = Instant::now();
    outcome.lag.record(now.saturating_duration_since(due));
    now
}
