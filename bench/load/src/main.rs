//! `spliceway-load`: backend (`serve`) and load generator of the benches.
//!
//! TCP is plain HTTP/1.1 of fixed sizes, so that curl or wrk can check the backend and any proxy can carry it; UDP is
//! one datagram each way, or trains of them. Each client command prints one line of JSON and exits with 0; errors of the
//! network are counted in it, not fatal. `first` prints a line for each line that it reads.

mod answering;
mod args;
mod batch;
mod bulk;
mod client;
mod connect;
mod connection;
mod datagram;
mod drain;
mod first;
mod http;
mod idle;
mod limits;
mod pattern;
mod poll;
mod pool;
mod reply;
mod report;
mod server;
mod steady;
mod targets;
mod train;
mod trains;
mod udp;

use std::io::{self, Write};
use std::process::ExitCode;

use args::Args;
use report::Outcome;

const USAGE: &str = "\
usage: spliceway-load serve --listen ADDR:PORT[,ADDR:PORT...] [--drain true]
       spliceway-load rr      TARGETS [TIMES] [--connections N] [--size BYTES]
       spliceway-load steady  TARGETS [TIMES] --rate N [--connections N] [--size BYTES]
       spliceway-load crr     TARGETS [TIMES] [--connections N] [--size BYTES]
       spliceway-load connect TARGETS [TIMES] [--rate N] [--size BYTES]
       spliceway-load paced   TARGETS [--seconds S] --rate N [--size BYTES]
       spliceway-load pool    TARGETS [--seconds S] --rate N [--connections N]
       spliceway-load idle    TARGETS [--connections N] [--hold S]
       spliceway-load bulk    TARGETS [TIMES] [--streams N] [--direction down|up]
       spliceway-load udp-new    TARGETS [TIMES] [--sources ADDR[,...]] [--clients N]
       spliceway-load udp-flow   TARGETS [TIMES] [--flows N] [--window N]
       spliceway-load udp-trains TARGETS [TIMES] [--flows N] [--window N] [--direction up|down]
       spliceway-load first                             (reads lines `ADDR:PORT SERVER|* MICROSECONDS`)
TARGETS: --target ADDR:PORT[,...] and/or --targets-file PATH (a line each), taken in turn; with --seed N (connect: always)
drawn at random. TIMES: --seconds S (2) after --warmup S (0.3).
serve: until it is killed; --drain: with SIGTERM it stops accepting, answers each connection once more, and ends;
rr: requests on kept connections, as fast as replies come; steady: the same as an open loop at a fixed rate over all
connections, each request timed from when it was due; crr: a new connection for each request; connect: the same, one at a
time; paced: the same as an open loop at a fixed rate; pool: requests at a fixed rate on kept connections, which are opened
anew when the server has closed them between two requests, and after an error; --size: of replies, 64 to 1048576; idle: opens connections with one
request each, says so in a line of JSON, holds them until standard input ends (or S seconds), and uses 1,000 of them again;
bulk: streams of stamped 64 KiB blocks; udp-new: a request and its reply from a new source port each time, as DNS;
udp-flow: kept sockets, a window of requests on each; udp-trains: trains of 16 datagrams of 1,200 bytes sent in one call,
each train acknowledged, a window of trains on each flow; first: a new connection every so many microseconds, until one is
answered by the server (* is any).";

/// Run a command. What it has found is printed, if it has not printed it itself.
fn run(words: Vec<String>) -> Result<Option<Outcome>, String> {
    let mut words = words.into_iter();
    let command = words.next().ok_or(USAGE)?;
    let mut args = Args::parse(words)?;
    limits::raise();
    match command.as_str() {
        "serve" => {
            let listens = args.addresses("listen")?;
            let drain = args.value("drain", false)?;
            args.finish()?;
            done(server::serve(&listens, drain))
        }
        "first" => {
            args.finish()?;
            done(first::run())
        }
        "rr" | "crr" | "paced" => {
            found(client::run(&understood(client::Load::from_args(&command, &mut args)?, &args)?))
        }
        "steady" => found(steady::run(&understood(steady::Load::from_args(&mut args)?, &args)?)),
        "pool" => found(pool::run(&understood(pool::Load::from_args(&mut args)?, &args)?)),
        "connect" => found(connect::run(&understood(connect::Load::from_args(&mut args)?, &args)?)),
        "idle" => found(idle::run(&understood(idle::Load::from_args(&mut args)?, &args)?)),
        "bulk" => Ok(Some(bulk::run(&understood(bulk::Load::from_args(&mut args)?, &args)?))),
        "udp-new" | "udp-flow" => found(udp::run(&understood(udp::Load::from_args(&command, &mut args)?, &args)?)),
        "udp-trains" => found(trains::run(&understood(trains::Load::from_args(&mut args)?, &args)?)),
        _ => Err(format!("unknown command {command:?}\n{USAGE}")),
    }
}

/// A load of which all options were understood.
fn understood<T>(load: T, args: &Args) -> Result<T, String> {
    args.finish().map(|()| load)
}

fn found(outcome: io::Result<Outcome>) -> Result<Option<Outcome>, String> {
    outcome.map(Some).map_err(|error| error.to_string())
}

fn done(outcome: io::Result<()>) -> Result<Option<Outcome>, String> {
    outcome.map(|()| None).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(Some(outcome)) => match writeln!(io::stdout(), "{}", outcome.to_json()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(None) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("spliceway-load: {message}");
            ExitCode::from(2)
        }
    }
}
