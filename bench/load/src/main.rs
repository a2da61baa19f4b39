//! `spliceway-load`: backend (`serve`) and load generator of the benches.
//!
//! TCP is plain HTTP/1.1 of fixed sizes, so that curl or wrk can check the backend and any proxy can carry it; UDP is
//! one datagram each way. Each client command prints one line of JSON and exits with 0; errors of the network are
//! counted in it, not fatal. `first` prints a line for each line that it reads.

mod args;
mod bulk;
mod client;
mod connection;
mod datagram;
mod first;
mod http;
mod report;
mod server;
mod udp;

use std::io::Write;
use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
usage: spliceway-load serve --listen ADDR:PORT[,ADDR:PORT...]
       spliceway-load rr    --target ADDR:PORT[,...] [--connections N] [--seconds S] [--warmup S]
       spliceway-load crr   --target ADDR:PORT[,...] [--connections N] [--seconds S] [--warmup S]
       spliceway-load paced --target ADDR:PORT[,...] --rate N [--seconds S]
       spliceway-load bulk  --target ADDR:PORT[,...] [--streams N] [--direction down|up] [--seconds S] [--warmup S]
       spliceway-load udp-new  --target ADDR:PORT[,...] [--sources ADDR[,...]] [--clients N] [--seconds S] [--warmup S]
       spliceway-load udp-flow --target ADDR:PORT[,...] [--flows N] [--window N] [--seconds S] [--warmup S]
       spliceway-load first                             (reads lines `ADDR:PORT SERVER|* MICROSECONDS`)
rr: requests on kept connections; crr: a new connection for each request; paced: the same as an open loop at a fixed
rate; bulk: streams of stamped 64 KiB blocks; udp-new: a request and its reply from a new source port each time, as
DNS; udp-flow: kept sockets, a window of requests on each. Several targets are taken in turn.
first: a new connection every so many microseconds, until one is answered by the server (* is any).";

fn run(words: Vec<String>) -> Result<Option<String>, String> {
    let mut words = words.into_iter();
    let command = words.next().ok_or(USAGE)?;
    let mut args = Args::parse(words)?;
    let outcome = match command.as_str() {
        "serve" => {
            let listens = args.addresses("listen")?;
            args.finish()?;
            return server::serve(&listens).map(|()| None).map_err(|error| error.to_string());
        }
        "rr" | "crr" | "paced" => {
            let load = client::Load::from_args(&command, &mut args)?;
            args.finish()?;
            client::run(&load).map_err(|error| error.to_string())?
        }
        "udp-new" | "udp-flow" => {
            let load = udp::Load::from_args(&command, &mut args)?;
            args.finish()?;
            udp::run(&load).map_err(|error| error.to_string())?
        }
        "first" => {
            args.finish()?;
            return first::run().map(|()| None).map_err(|error| error.to_string());
        }
        "bulk" => {
            let load = bulk::Load::from_args(&mut args)?;
            args.finish()?;
            bulk::run(&load)
        }
        _ => return Err(format!("unknown command {command:?}\n{USAGE}")),
    };
    Ok(Some(outcome.to_json()))
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(Some(line)) => match writeln!(std::io::stdout(), "{line}") {
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
