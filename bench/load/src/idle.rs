//! Connections that stand and do nothing, for the memory that they cost.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::args::Args;
use crate::connection::{Connection, Exchange};
use crate::http;
use crate::limits;
use crate::poll::timespec;
use crate::report::Outcome;
use crate::targets::Targets;

/// Connections that are used once more at the end, at most: they are spread over all.
const SAMPLE: usize = 1000;
/// Descriptors besides the connections.
const OTHERS: u64 = 16;
/// Errors after which nothing more is opened.
const HOPELESS: usize = 10;

/// An `idle` command.
pub struct Load {
    targets: Targets,
    connections: usize,
    /// `None`: until the end of input.
    hold: Option<Duration>,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        let hold = args.optional::<f64>("hold")?;
        let load = Self {
            targets: Targets::from_args(args, None)?,
            connections: args.value("connections", 10_000)?,
            hold: hold.map(Duration::try_from_secs_f64).transpose().map_err(|error| format!("--hold: {error}"))?,
        };
        let allowed = limits::descriptors().saturating_sub(OTHERS);
        if load.connections as u64 > allowed {
            return Err(format!("--connections {}: RLIMIT_NOFILE allows {allowed}", load.connections));
        }
        Ok(load)
    }
}

/// Open all connections with one request on each, say so, hold them, and use some of them once more. The window of the
/// report is the time that opening took.
pub fn run(load: &Load) -> io::Result<Outcome> {
    let mut exchange = Exchange::new(http::MESSAGE, false);
    let mut outcome = Outcome::default();
    let start = Instant::now();
    let mut connections = open(load, &mut exchange, &mut outcome)?;
    outcome.window = start.elapsed();
    let mut out = io::stdout();
    writeln!(out, "{{\"open\": {}}}", connections.len())?;
    out.flush()?;
    hold(load.hold)?;
    let step = connections.len().div_ceil(SAMPLE).max(1);
    for (index, connection) in connections.iter_mut().enumerate() {
        if !connection.is_quiet() {
            outcome.error("broken-while-idle");
        } else if index % step == 0 {
            make(connection, &mut exchange, &mut outcome);
        }
    }
    Ok(outcome)
}

fn open(load: &Load, exchange: &mut Exchange, outcome: &mut Outcome) -> io::Result<Vec<Connection>> {
    let mut targets = load.targets.clone();
    let mut connections = Vec::with_capacity(load.connections);
    let mut failed = 0;
    while connections.len() + failed < load.connections && failed < HOPELESS {
        match Connection::open_waiting(targets.next())? {
            Ok(mut connection) => {
                if make(&mut connection, exchange, outcome) {
                    connections.push(connection);
                } else {
                    failed += 1;
                }
            }
            Err(kind) => {
                outcome.error(kind);
                failed += 1;
            }
        }
    }
    Ok(connections)
}

/// One request; was it answered as it should?
fn make(connection: &mut Connection, exchange: &mut Exchange, outcome: &mut Outcome) -> bool {
    match connection.exchange(exchange) {
        Ok(()) => {
            outcome.requests += 1;
            outcome.bytes += exchange.size();
            outcome.served_by(connection.server(exchange));
            true
        }
        Err(kind) => {
            outcome.error(kind);
            false
        }
    }
}

/// Wait until standard input ends, at most for `limit`.
fn hold(limit: Option<Duration>) -> io::Result<()> {
    let end = limit.map(|limit| Instant::now() + limit);
    let stdin = io::stdin();
    loop {
        let wait = end.map(|end| timespec(end.saturating_duration_since(Instant::now())));
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], wait.as_ref()) {
            Ok(0) => return Ok(()),
            Ok(_) if rustix::io::read(stdin.as_fd(), &mut [0_u8; 512][..])? == 0 => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
