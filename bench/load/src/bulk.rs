//! Bulk streams of 64 KiB blocks. The first and last eight bytes of a block carry its number, so a block that is lost,
//! repeated, moved or torn is noticed at next to no cost; between them the pattern is looked at here and there. The last block is marked and carries the count of all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::args::{Args, Direction};
use crate::http::{self, Request};
use crate::pattern;
use crate::report::Outcome;
use crate::targets::Targets;

const BLOCK: usize = 64 * 1024;
/// Blocks handed over in one call.
const BATCH: usize = 4;
/// Bytes from one word that is looked at to the next.
const SAMPLE: usize = 4096;
/// Set in the number of the last block.
const LAST: u64 = 1 << 63;

/// A `bulk` command.
pub struct Load {
    targets: Targets,
    streams: usize,
    up: bool,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of `bulk`.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        Ok(Self {
            targets: Targets::from_args(args, None)?,
            streams: args.value("streams", 1)?,
            up: args.direction(Direction::Down)? == Direction::Up,
            seconds: args.seconds("seconds", 2.0)?,
            warmup: args.seconds("warmup", 0.3)?,
        })
    }
}

/// Run all streams, each in a thread, and add up what they verified.
pub fn run(load: &Load) -> Outcome {
    let start = Instant::now();
    let mut targets = load.targets.clone();
    let threads: Vec<_> = (0..load.streams)
        .map(|_| {
            let target = targets.next();
            let (up, warmup, end) = (load.up, start + load.warmup, start + load.warmup + load.seconds);
            std::thread::spawn(move || stream(target, up, warmup, end))
        })
        .collect();
    let mut outcome = Outcome { window: load.seconds, ..Outcome::default() };
    for thread in threads {
        match thread.join() {
            Ok(Ok((bytes, server))) => {
                outcome.requests += 1;
                outcome.bytes += bytes;
                outcome.served_by(server.as_bytes());
            }
            Ok(Err(error)) => outcome.error(&format!("stream-{}", error)),
            Err(_) => outcome.error("thread-died"),
        }
    }
    outcome
}

/// One stream; returns the bytes that passed between `warmup` and `end`, and the server's name where it is told.
fn stream(target: SocketAddr, up: bool, warmup: Instant, end: Instant) -> io::Result<(u64, String)> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    // the end of each batch leaves at once, as the server's does
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut window = 0;
    let mut count = |length: usize| {
        let now = Instant::now();
        if now >= warmup && now < end {
            window += length as u64;
        }
    };
    let total = end.saturating_duration_since(Instant::now());
    if up {
        stream.write_all(&http::encode(Request::Up))?;
        let sent = send_counted(&mut stream, total, &mut count)?;
        let mut verdict = String::new();
        stream.read_to_string(&mut verdict)?;
        if verdict != format!("blocks={sent}\n") {
            return Err(io::Error::other("upload not confirmed"));
        }
    } else {
        let milliseconds = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
        stream.write_all(&http::encode(Request::Down(milliseconds)))?;
        receive(&mut stream, &[], End::Closed, &mut count)?;
    }
    Ok((window, target.to_string()))
}

/// Send blocks for `time`, then the marked last one. Returns how many.
pub fn send(stream: &mut TcpStream, time: Duration) -> io::Result<u64> {
    send_counted(stream, time, |_| {})
}

fn send_counted(stream: &mut TcpStream, time: Duration, mut count: impl FnMut(usize)) -> io::Result<u64> {
    let end = Instant::now() + time;
    let mut batch = pattern::bytes(BLOCK).repeat(BATCH);
    let mut number = 0;
    while Instant::now() < end {
        for block in batch.chunks_exact_mut(BLOCK) {
            stamp(block, number);
            number += 1;
        }
        stream.write_all(&batch)?;
        count(batch.len());
    }
    let last = &mut batch[..BLOCK];
    stamp(last, number | LAST);
    stream.write_all(last)?;
    Ok(number + 1)
}

/// What ends a stream of blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The marked block. Not the end of what the client sends: some proxies drop the answer to a half-closed connection.
    Marked,
    /// The sender closes right after the marked block.
    Closed,
}

/// Receive and verify blocks until the end of the stream; nothing may come behind the marked block.
pub fn receive(stream: &mut TcpStream, head: &[u8], end: End, mut count: impl FnMut(usize)) -> io::Result<u64> {
    let mut buffer = vec![0_u8; BLOCK * BATCH];
    buffer[..head.len()].copy_from_slice(head);
    let model = pattern::bytes(BLOCK);
    let (mut filled, mut number, mut ended) = (head.len(), 0_u64, false);
    while !ended || end == End::Closed {
        let length = stream.read(&mut buffer[filled..])?;
        if length == 0 {
            break;
        }
        count(length);
        filled += length;
        let whole = filled - filled % BLOCK;
        for block in buffer[..whole].chunks_exact(BLOCK) {
            let found = verify(block, &model).ok_or_else(|| io::Error::other(format!("block {number} is torn")))?;
            if ended || found & !LAST != number {
                return Err(io::Error::other(format!("block {} came instead of {number}", found & !LAST)));
            }
            ended = found & LAST != 0;
            number += 1;
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
    if filled != 0 || !ended {
        return Err(io::Error::other(format!("cut short in block {number}")));
    }
    Ok(number)
}

/// Tell an uploading client what arrived.
pub fn write_verdict(stream: &mut TcpStream, verdict: &io::Result<u64>) -> io::Result<()> {
    match verdict {
        Ok(blocks) => stream.write_all(format!("blocks={blocks}\n").as_bytes()),
        Err(error) => stream.write_all(format!("{error}\n").as_bytes()),
    }
}

fn stamp(block: &mut [u8], number: u64) {
    let bytes = number.to_le_bytes();
    block[..8].copy_from_slice(&bytes);
    block[BLOCK - 8..].copy_from_slice(&bytes);
}

/// The number of a block, if it is the same at both ends and the words between that are looked at are in their places.
fn verify(block: &[u8], model: &[u8]) -> Option<u64> {
    let first: [u8; 8] = block[..8].try_into().ok()?;
    let words = (SAMPLE..BLOCK).step_by(SAMPLE).map(|place| place..place + 8);
    let sound = block[BLOCK - 8..] == first && words.into_iter().all(|word| block[word.clone()] == model[word]);
    sound.then(|| u64::from_le_bytes(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Without it a proxy that loses or tears data would look fast.
    #[test]
    fn only_a_complete_stream_passes() {
        let mut bytes = pattern::bytes(BLOCK).repeat(3);
        for (number, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            stamp(block, number as u64 | if number == 2 { LAST } else { 0 });
        }
        let mut torn = bytes.clone();
        torn[BLOCK * 2 - 1] ^= 1;
        let mut moved = bytes.clone();
        moved[BLOCK + 100..BLOCK + 30_000].rotate_left(16);
        let swapped = [&bytes[BLOCK..BLOCK * 2], &bytes[..BLOCK], &bytes[BLOCK * 2..]].concat();
        let longer = [&bytes[..], &[0]].concat();
        for end in [End::Marked, End::Closed] {
            assert!(matches!(pass(&bytes, end), Ok(3)));
            for bad in [&bytes[..BLOCK * 2], &bytes[..BLOCK * 3 - 1], &torn, &moved, &swapped] {
                assert!(pass(bad, end).is_err());
            }
        }
        assert!(pass(&longer, End::Closed).is_err());
    }

    fn pass(bytes: &[u8], end: End) -> io::Result<u64> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::scope(|scope| {
            scope.spawn(move || TcpStream::connect(address).and_then(|mut stream| stream.write_all(bytes)));
            receive(&mut listener.accept()?.0, &[], end, |_| {})
        })
    }
}
