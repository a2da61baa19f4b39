//! When does a Service answer? A new connection every so often, until the first one that the right server answers.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time::{ClockId, clock_gettime};

use crate::connection::{self, Connection, Exchange, Step};
use crate::http;
use crate::poll;

/// A connection that has come to nothing after this long is given up: its first packet was lost, and the kernel's
/// second one would come late and say little.
const PATIENCE: Duration = Duration::from_millis(900);
/// The whole search.
const LIMIT: Duration = Duration::from_secs(300);

struct Search {
    target: SocketAddr,
    /// `None`: any.
    server: Option<Vec<u8>>,
    interval: Duration,
}

/// Serve lines `ADDR:PORT SERVER MICROSECONDS` until the end of input. The answer to each is a line of JSON: `at` and
/// `dialled` are nanoseconds of the monotonic clock (the reply was whole; its connection was dialled), `tries` the
/// connections made; `at` 0: nothing within the limit.
pub fn run() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let search = parse(&line?).ok_or_else(|| io::Error::other("expected ADDR:PORT SERVER MICROSECONDS"))?;
        let answer = search.run()?;
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn parse(line: &str) -> Option<Search> {
    let mut words = line.split_ascii_whitespace();
    let target = words.next()?.parse().ok()?;
    let server = words.next()?;
    let interval = Duration::from_micros(words.next()?.parse().ok()?);
    let server = if server == "*" { None } else { Some(server.as_bytes().to_vec()) };
    Some(Search { target, server, interval })
}

impl Search {
    fn run(&self) -> io::Result<String> {
        let mut exchange = Exchange::new(http::MESSAGE, true);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let start = Instant::now();
        let mut next = start;
        let mut tries: u64 = 0;
        // in order of dialling; the number of the first one is that of all tries that have left the queue
        let mut waiting: VecDeque<Option<Connection>> = VecDeque::new();
        let mut gone: u64 = 0;
        let mut events = Vec::with_capacity(256);
        while start.elapsed() < LIMIT {
            let now = Instant::now();
            if now >= next {
                next = now + self.interval;
                let (opened, outcome) = Connection::open(self.target)?;
                epoll::add(&epoll, opened.stream(), epoll::EventData::new_u64(tries), connection::INTEREST)?;
                waiting.push_back(outcome.is_ok().then_some(opened));
                tries += 1;
            }
            while waiting.front().is_some_and(|first| first.as_ref().is_none_or(|it| it.begun.elapsed() > PATIENCE)) {
                waiting.pop_front();
                gone += 1;
            }
            let wait = next.saturating_duration_since(Instant::now());
            poll::wait(&epoll, &mut events, Some(wait))?;
            for event in &events {
                let Some(slot) = event.data.u64().checked_sub(gone).and_then(|place| waiting.get_mut(place as usize))
                else {
                    continue;
                };
                let Some(open) = slot.as_mut() else { continue };
                match open.advance(&mut exchange) {
                    Step::Wait => {}
                    Step::Done if self.is_right(open.server(&exchange)) => {
                        let since = open.begun.elapsed();
                        let at = monotonic();
                        let dialled = at.saturating_sub(since.as_nanos());
                        return Ok(format!("{{\"at\": {at}, \"dialled\": {dialled}, \"tries\": {tries}}}"));
                    }
                    Step::Done | Step::Failed(_) => *slot = None,
                }
            }
        }
        Ok(format!("{{\"at\": 0, \"dialled\": 0, \"tries\": {tries}}}"))
    }

    fn is_right(&self, server: &[u8]) -> bool {
        self.server.as_ref().is_none_or(|wanted| wanted == server)
    }
}

fn monotonic() -> u128 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u128 * 1_000_000_000 + now.tv_nsec as u128
}
