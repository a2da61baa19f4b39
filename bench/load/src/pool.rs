//! Requests at a fixed rate over connections that are kept as HTTP clients keep theirs: what a server has closed between
//! two requests is opened anew, and so is what has failed, once that is counted. A thread for each connection.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::client::tally;
use crate::connection::{Connection, Exchange};
use crate::http::MESSAGE;
use crate::report::Outcome;
use crate::targets::Targets;

/// The first request is due so long after the start of the threads.
const LEAD: Duration = Duration::from_millis(20);

/// A `pool` command.
pub struct Load {
    targets: Targets,
    connections: usize,
    rate: f64,
    seconds: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        let load = Self {
            targets: Targets::from_args(args, None)?,
            connections: args.value("connections", 32)?,
            rate: args.rate()?.ok_or("--rate is missing: requests per second over all connections")?,
            seconds: args.seconds("seconds", 2.0)?,
        };
        if !(1..=1000).contains(&load.connections) {
            return Err("--connections must be 1 to 1000: each has a thread".to_owned());
        }
        Ok(load)
    }
}

/// What became of a request.
struct Ended {
    due: Instant,
    /// When the reply was whole and the server that gave it, or the kind of error.
    result: Result<(Instant, Vec<u8>), &'static str>,
}

/// Run the load to its end, and report what was verified.
pub fn run(load: &Load) -> io::Result<Outcome> {
    let mut outcome = Outcome { window: load.seconds, ..Outcome::default() };
    let start = Instant::now() + LEAD;
    let (told, ends) = mpsc::channel();
    thread::scope(|scope| -> io::Result<()> {
        let lanes: Vec<_> = (0..load.connections)
            .map(|lane| {
                let told = told.clone();
                scope.spawn(move || make_requests(load, lane, start, &told))
            })
            .collect();
        drop(told);
        for ended in ends {
            count(&mut outcome, &ended, start);
        }
        lanes.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(|_| Err(io::Error::other("a thread died"))))
    })?;
    Ok(outcome)
}

fn count(outcome: &mut Outcome, ended: &Ended, start: Instant) {
    let counters = tally(&mut outcome.timeline, ended.due - start);
    match &ended.result {
        Ok((answered, server)) => {
            counters.0 += 1;
            outcome.requests += 1;
            outcome.bytes += MESSAGE as u64;
            outcome.latency.record(answered.saturating_duration_since(ended.due));
            outcome.served_by(server);
        }
        Err(kind) => {
            counters.1 += 1;
            outcome.error(kind);
        }
    }
}

/// The requests of one connection: every `connections`-th of all, each as soon as it is due and the one before has ended.
fn make_requests(load: &Load, lane: usize, start: Instant, told: &Sender<Ended>) -> io::Result<()> {
    let mut targets = load.targets.clone();
    let mut exchange = Exchange::new(MESSAGE, false);
    let mut kept = None;
    let total = (load.seconds.as_secs_f64() * load.rate) as usize;
    for request in (lane..total).step_by(load.connections) {
        let due = start + Duration::from_secs_f64(request as f64 / load.rate);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let result = make_request(&mut kept, &mut targets, &mut exchange)?;
        if told.send(Ended { due, result }).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// One request on the kept connection, or on a new one when that has been closed.
fn make_request(
    kept: &mut Option<Connection>,
    targets: &mut Targets,
    exchange: &mut Exchange,
) -> io::Result<Result<(Instant, Vec<u8>), &'static str>> {
    let mut connection = match kept.take().filter(Connection::is_quiet) {
        Some(connection) => connection,
        None => match Connection::open_waiting(targets.next())? {
            Ok(connection) => connection,
            Err(kind) => return Ok(Err(kind)),
        },
    };
    if let Err(kind) = connection.exchange(exchange) {
        return Ok(Err(kind));
    }
    let answered = (connection.answered(), connection.server(exchange).to_vec());
    *kept = Some(connection);
    Ok(Ok(answered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    fn request(kept: &mut Option<Connection>, target: SocketAddr) -> Result<(Instant, Vec<u8>), &'static str> {
        let words = ["--target".to_owned(), target.to_string()];
        let mut targets = Targets::from_args(&mut Args::parse(words.into_iter()).unwrap(), None).unwrap();
        make_request(kept, &mut targets, &mut Exchange::new(MESSAGE, false)).unwrap()
    }

    /// A server that leaves closes connections between two requests; that would look like an error of the proxy.
    #[test]
    fn what_the_server_has_closed_is_opened_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for _ in 0..2 {
                let mut client = listener.accept().unwrap().0;
                client.read_exact(&mut [0; MESSAGE]).unwrap();
                client.write_all(&http::reply(target, MESSAGE, false)).unwrap();
            }
        });
        let mut kept = None;
        assert!(request(&mut kept, target).is_ok());
        while kept.as_ref().is_some_and(Connection::is_quiet) {
            thread::yield_now();
        }
        assert_eq!(request(&mut kept, target).map(|(_, name)| name), Ok(target.to_string().into_bytes()));
        server.join().unwrap();
    }

    /// Without it a rolling update that loses requests would look clean.
    #[test]
    fn what_fails_is_counted() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(request(&mut None, target), Err("refused")));
    }
}
