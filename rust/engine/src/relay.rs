//! Moving bytes of one direction: read and write at once, keep what did not fit, splice what proves to be long.
//!
//! A direction reads only when all that it read before is written: the slower side sets the pace, and an idle flow has
//! no buffer. The common message costs one read and one write, and no call that changes the poll.

use std::sync::atomic::Ordering::Relaxed;

use spliceway_core::session::{Side, Step};
use spliceway_io::pipe::PIPE_SIZE;
use spliceway_io::{Errno, socket};

use crate::flow::{Flow, Lane, at};
use crate::worker::Tools;

/// Room that all flows of a worker share for bytes on their way.
pub(crate) const SCRATCH: usize = 256 << 10;
/// Client bytes that are held for a replay at most: a request's head and a small body.
pub(crate) const HOLD: u32 = 16 << 10;
/// Bytes that one direction may move before others have their turn.
const TURN: usize = 1 << 20;
/// How much to read, by the number of reads in a row that found more than they could take. The first is more than the
/// 16 KiB that servers like to write, so that such a reply with its head is one read and one write.
const READ_SIZES: [usize; 3] = [32 << 10, 64 << 10, SCRATCH];
/// So many full reads in a row make a direction long: splice.
const SPLICE_AFTER: u8 = 4;
/// Splicing less than this costs more than copying it.
const SPLICE_LEAST: usize = 16 << 10;
/// So many small splices in a row make a direction short again: copy.
const COPY_AFTER: u8 = 8;

/// What one attempt to move bytes came to.
enum Moved {
    /// So many bytes were read; whether more is likely to be there at once.
    Some(usize, bool),
    /// The source has nothing more, or the destination no room.
    Blocked,
    /// The session wants something done.
    Step(Step),
}

/// Move bytes that came from `from` to its peer, until nothing is there, nothing fits, or the turn is over.
///
/// `ended`: the poll says that `from` will send no more than what is there now.
pub(crate) fn pump(flow: &mut Flow, from: Side, ended: bool, tools: &mut Tools) -> Step {
    let step = move_bytes(flow, from, ended, tools);
    give_pipe_back(flow, from, tools);
    step
}

fn move_bytes(flow: &mut Flow, from: Side, ended: bool, tools: &mut Tools) -> Step {
    if flow.session.pending(from) > 0 {
        let step = flush(flow, from, tools);
        if step != Step::Go {
            return step;
        }
    }
    let mut turn = 0;
    while turn < TURN && flow.session.may_read(from) {
        let splicing = flow.lanes[at(from)].splicing;
        match if splicing { splice(flow, from, tools) } else { copy(flow, from, ended, tools) } {
            Moved::Some(n, true) => turn += n,
            Moved::Some(_, false) | Moved::Blocked => break,
            Moved::Step(step) => return step,
        }
    }
    Step::Go
}

/// A socket is in error or shut down in both directions, and moving bytes did not tell why.
///
/// What its peer sent before is still passed on. While bytes of it wait for the slower side, its hang-up would be told
/// again and again, so the caller must not watch the socket until more may be read. `None` says so.
///
/// When nothing is to be written any more the error is left where it is: reading up to it tells whether an end came before.
pub(crate) fn failed(flow: &mut Flow, side: Side, tools: &mut Tools) -> Option<Step> {
    if flow.session.takes(side)
        && let Some(errno) = flow.socket(side).and_then(socket::take_error)
    {
        let step = write_failed(flow, side.peer(), errno, tools);
        return (step != Step::Go || flow.session.pending(side) == 0).then_some(step);
    }
    if flow.session.pending(side) > 0 {
        return None;
    }
    if flow.session.may_read(side) {
        return Some(Step::Go); // its turn was over: it goes on with the next wait
    }
    Some(flow.session.read_failed(side))
}

fn copy(flow: &mut Flow, from: Side, ended: bool, tools: &mut Tools) -> Moved {
    let streak = flow.lanes[at(from)].streak;
    let size = READ_SIZES[usize::from(streak).min(READ_SIZES.len() - 1)];
    let Some(source) = flow.socket(from) else {
        return Moved::Blocked;
    };
    let mut n = match socket::read(source, &mut tools.scratch[..size]) {
        Ok(0) => return Moved::Step(flow.session.read_end(from)),
        Ok(n) => n,
        Err(Errno::AGAIN) => return Moved::Blocked,
        Err(_) => return Moved::Step(flow.session.read_failed(from)),
    };
    // A short read alone does not tell the end: there may be more behind an urgent byte.
    let (mut last, mut reset) = (false, None);
    if ended && n < size {
        match socket::read(source, &mut tools.scratch[n..size]) {
            // Bytes that wait for the end would be thrown away by the reset that ends a broken session.
            Ok(0) => last = !flow.session.broken(from),
            Ok(more) => n += more,
            Err(errno) => reset = Some(errno).filter(|&errno| errno != Errno::AGAIN),
        }
    }
    flow.session.read(from, n);
    if flow.dialling.is_some() {
        hold(flow, from, &tools.scratch[..n]);
    }
    let full = n == size;
    let lane = &mut flow.lanes[at(from)];
    if !lane.splicing {
        lane.streak = if full { streak.saturating_add(1) } else { 0 };
        lane.splicing = lane.streak >= SPLICE_AFTER && tools.pipes.any() && !flow.session.holding();
    }
    let (written, mut step) = match write(flow, from, &tools.scratch[..n], last) {
        Ok(done) => done,
        Err(errno) => return Moved::Step(write_failed(flow, from, errno, tools)),
    };
    if written < n {
        flow.lanes[at(from)].buffer.extend_from_slice(&tools.scratch[written..n]);
    }
    if let (Some(errno), Step::Go) = (reset, step) {
        step = write_failed(flow, from.peer(), errno, tools); // the socket told it once, and tells of an end from now on
    } else if last && written == n {
        step = flow.session.read_end(from); // else the read after the rest is written tells it again
    }
    match step {
        Step::Go if written < n => Moved::Blocked,
        Step::Go => Moved::Some(n, full),
        step => Moved::Step(step),
    }
}

/// Keep what another backend would need, or forget it all when none can take over any more.
fn hold(flow: &mut Flow, from: Side, bytes: &[u8]) {
    if !flow.session.replaceable() {
        flow.dialling = None;
    } else if from == Side::Client
        && let Some(dialling) = flow.dialling.as_mut()
    {
        dialling.held.extend_from_slice(bytes);
    }
}

/// Write what fits of `bytes`, which came from `from`. An error is the destination's end.
fn write(flow: &mut Flow, from: Side, bytes: &[u8], last: bool) -> Result<(usize, Step), Errno> {
    let to = from.peer();
    let Some(destination) = flow.socket(to) else {
        return Ok((0, Step::Go));
    };
    match if last { socket::write_last(destination, bytes) } else { socket::write(destination, bytes) } {
        Ok(n) => {
            count(flow, from, n);
            Ok((n, flow.session.written(from, n)))
        }
        Err(Errno::AGAIN) => Ok((0, Step::Go)),
        Err(errno) => Err(errno),
    }
}

fn splice(flow: &mut Flow, from: Side, tools: &mut Tools) -> Moved {
    if flow.lanes[at(from)].pipe.is_none() {
        match tools.pipes.take() {
            Ok(Some(pipe)) => flow.lanes[at(from)].pipe = Some(pipe),
            Ok(None) | Err(_) => {
                tools.shared.bounds.pipe_limit_hits.fetch_add(1, Relaxed);
                copy_instead(&mut flow.lanes[at(from)]);
                return Moved::Some(0, true);
            }
        }
    }
    let (Some(source), Some(pipe)) = (flow.socket(from), &flow.lanes[at(from)].pipe) else {
        return Moved::Blocked;
    };
    let n = match pipe.fill(source, PIPE_SIZE) {
        // Splicing stops at an urgent byte, and cannot tell it from an end or from nothing: reading can.
        Ok(0) | Err(Errno::AGAIN) => return copy(flow, from, false, tools),
        Ok(n) => n,
        Err(Errno::INTR) => return Moved::Blocked,
        Err(Errno::INVAL) => {
            copy_instead(&mut flow.lanes[at(from)]);
            return Moved::Some(0, true);
        }
        Err(_) => return Moved::Step(flow.session.read_failed(from)),
    };
    flow.session.read(from, n);
    let lane = &mut flow.lanes[at(from)];
    lane.streak = if n < SPLICE_LEAST { lane.streak.saturating_add(1) } else { 0 };
    lane.splicing = lane.streak < COPY_AFTER;
    if !lane.splicing {
        lane.streak = 0;
    }
    match flush(flow, from, tools) {
        Step::Go if flow.session.pending(from) == 0 => Moved::Some(n, n >= SPLICE_LEAST),
        Step::Go => Moved::Blocked,
        step => Moved::Step(step),
    }
}

fn copy_instead(lane: &mut Lane) {
    lane.splicing = false;
    lane.streak = 0;
}

/// Write what waits, from the pipe or from the buffer.
fn flush(flow: &mut Flow, from: Side, tools: &mut Tools) -> Step {
    while flow.session.pending(from) > 0 {
        let lane = &flow.lanes[at(from)];
        let Some(destination) = flow.socket(from.peer()) else {
            return Step::Go;
        };
        let written = match &lane.pipe {
            Some(pipe) if lane.buffer.is_empty() => pipe.drain(destination, flow.session.pending(from)),
            _ => socket::write(destination, &lane.buffer[lane.start..]),
        };
        match written {
            Ok(n) => {
                count(flow, from, n);
                advance(&mut flow.lanes[at(from)], n);
                let step = flow.session.written(from, n);
                if step != Step::Go {
                    return step;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => return Step::Go,
            Err(errno) => return write_failed(flow, from, errno, tools),
        }
    }
    Step::Go
}

/// `n` bytes of the buffer are written; an empty buffer gives its memory back.
fn advance(lane: &mut Lane, n: usize) {
    if lane.buffer.is_empty() {
        return; // they were in the pipe
    }
    lane.start += n;
    if lane.start >= lane.buffer.len() {
        lane.buffer = Vec::new();
        lane.start = 0;
    }
}

/// The destination takes no more: what waits for it is thrown away, and so is a pipe that holds some of it.
///
/// `EPIPE`, while our direction is open, is Linux's word for a reset that came after the peer's end (tcp_reset in CLOSE_WAIT).
fn write_failed(flow: &mut Flow, from: Side, errno: Errno, tools: &mut Tools) -> Step {
    let lane = &mut flow.lanes[at(from)];
    lane.buffer = Vec::new();
    lane.start = 0;
    if let Some(pipe) = lane.pipe.take() {
        tools.pipes.discard(pipe);
    }
    flow.session.write_failed(from.peer(), errno == Errno::PIPE)
}

/// An idle direction holds no pipe.
fn give_pipe_back(flow: &mut Flow, from: Side, tools: &mut Tools) {
    if flow.session.pending(from) == 0
        && let Some(pipe) = flow.lanes[at(from)].pipe.take()
    {
        tools.pipes.give(pipe);
    }
}

fn count(flow: &Flow, from: Side, n: usize) {
    let n = n as u64;
    let pool = &flow.counted.pool;
    let backend = flow.serving.as_ref().map(|serving| &serving.0);
    match from {
        Side::Client => {
            pool.bytes_in.fetch_add(n, Relaxed);
            backend.map(|b| b.bytes_in.fetch_add(n, Relaxed));
        }
        Side::Backend => {
            pool.bytes_out.fetch_add(n, Relaxed);
            backend.map(|b| b.bytes_out.fetch_add(n, Relaxed));
        }
    }
}
