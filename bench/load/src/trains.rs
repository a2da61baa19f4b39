//! The client's side of trains (`udp-trains`): one epoll thread, a connected socket for each flow, a window of trains
//! under way on each, sent by the client (`up`) or by the server (`down`).

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::args::{Args, Direction};
use crate::batch::{self, Batch};
use crate::poll;
use crate::report::Outcome;
use crate::targets::Targets;
use crate::train::{self, Control, DATAGRAM, Flow, Kind, Reader, TRAIN, Tally, Writer};
use crate::udp::kind_of;

/// A train that is not acknowledged, or does not come, for this long is lost.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
/// Bytes of all windows: the queues hold more, so that nothing is lost there.
const UNDER_WAY: u64 = 32 << 20;
/// Bytes that may wait in a socket.
const BUFFER: usize = 8 << 20;
/// Calls that receive in a row before others have their turn.
const TURN: usize = 16;

/// A `udp-trains` command.
pub struct Load {
    targets: Targets,
    flows: usize,
    window: u64,
    direction: Direction,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(args: &mut Args) -> Result<Self, String> {
        let load = Self {
            targets: Targets::from_args(args, None)?,
            flows: args.value("flows", 1)?,
            window: args.value("window", 4)?,
            direction: args.direction(Direction::Up)?,
            seconds: args.seconds("seconds", 2.0)?,
            warmup: args.seconds("warmup", 0.3)?,
        };
        if !(1..=train::MAX_WINDOW).contains(&load.window) {
            return Err(format!("--window must be from 1 to {}", train::MAX_WINDOW));
        }
        let most = UNDER_WAY / (load.window * TRAIN * DATAGRAM as u64);
        if load.flows == 0 || load.flows as u64 > most {
            return Err(format!("--flows must be from 1 to {most} with --window {}", load.window));
        }
        Ok(load)
    }
}

/// One flow.
struct Lane {
    socket: UdpSocket,
    flow: Flow,
    /// Trains sent by the client.
    next: u64,
    /// When those of them left that are not acknowledged; the last one is that before `next`.
    waiting: VecDeque<Instant>,
    /// What the client has found; the server's trains only.
    reader: Reader,
    /// What was counted already.
    counted: Tally,
    server: Vec<u8>,
    /// When something came, or was asked for.
    heard: Instant,
}

struct Client<'a> {
    load: &'a Load,
    epoll: OwnedFd,
    lanes: Vec<Lane>,
    writer: Writer,
    start: Instant,
    outcome: Outcome,
}

/// Run the load and report what was verified: requests are whole trains, latencies those from a train to its
/// acknowledgement (`up` only).
pub fn run(load: &Load) -> io::Result<Outcome> {
    let mut client = Client {
        load,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        lanes: Vec::new(),
        writer: Writer::new(),
        start: Instant::now(),
        outcome: Outcome { window: load.seconds, ..Outcome::default() },
    };
    let (run, mut targets) = (fastrand::u64(..), load.targets.clone());
    for number in 0..load.flows as u64 {
        client.open(Flow { run, number }, targets.next())?;
    }
    client.start = Instant::now();
    for index in 0..load.flows {
        client.begin(index);
    }
    client.drive()?;
    Ok(client.outcome)
}

impl Client<'_> {
    /// A connected socket: it takes nothing but what comes from the address that was dialled.
    fn open(&mut self, flow: Flow, target: SocketAddr) -> io::Result<()> {
        let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_nonblocking(true)?;
        batch::set_buffers(&socket, BUFFER)?;
        batch::segment(&socket)?;
        batch::coalesce(&socket, true)?;
        socket.connect(target)?;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(flow.number), epoll::EventFlags::IN)?;
        let (reader, heard) = (Reader::new(flow, 0), self.start);
        let (waiting, counted, server) = (VecDeque::new(), Tally::default(), Vec::new());
        self.lanes.push(Lane { socket, flow, next: 0, waiting, reader, counted, server, heard });
        Ok(())
    }

    fn drive(&mut self) -> io::Result<()> {
        let end = self.start + self.load.warmup + self.load.seconds;
        let (mut events, mut batch) = (Vec::with_capacity(256), Batch::new());
        let mut next_tick = self.start + TICK;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now >= next_tick {
                self.expire(now);
                next_tick = now + TICK;
            }
            poll::wait(&self.epoll, &mut events, Some(next_tick.min(end).saturating_duration_since(now)))?;
            for event in &events {
                self.ready(event.data.u64() as usize, &mut batch);
            }
        }
    }

    fn begin(&mut self, index: usize) {
        match self.load.direction {
            Direction::Up => (0..self.load.window).for_each(|_| self.send(index)),
            Direction::Down => self.ask(index, 0),
        }
    }

    /// Send the next train.
    fn send(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        lane.waiting.push_back(Instant::now());
        if let Err(error) = lane.socket.send(self.writer.write(lane.flow, lane.next)) {
            self.outcome.error(kind_of(&error));
        }
        lane.next += 1;
    }

    /// Ask for the server's trains from number `train` on.
    fn ask(&mut self, index: usize, train: u64) {
        let lane = &mut self.lanes[index];
        lane.heard = Instant::now();
        lane.reader.skip(train);
        let tally = Tally { good: self.load.window, ..Tally::default() };
        self.tell(index, &Control { kind: Kind::Get, flow: self.lanes[index].flow, train, tally });
    }

    fn tell(&mut self, index: usize, control: &Control) {
        if let Err(error) = self.lanes[index].socket.send(&control.encode(b"")) {
            self.outcome.error(kind_of(&error));
        }
    }

    /// Read until there is nothing, or others want their turn.
    fn ready(&mut self, index: usize, batch: &mut Batch) {
        for _ in 0..TURN {
            let received = match batch.receive(&self.lanes[index].socket) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.outcome.error(kind_of(&error));
                    continue;
                }
            };
            for bytes in received.datagrams() {
                match Control::decode(bytes) {
                    Some((control, server)) => self.hear(index, &control, server),
                    None if self.load.direction == Direction::Down => self.take(index, bytes),
                    None => self.outcome.error("bad-reply"),
                }
            }
        }
    }

    /// A message of the server.
    fn hear(&mut self, index: usize, control: &Control, server: &[u8]) {
        let lane = &mut self.lanes[index];
        let expected = if self.load.direction == Direction::Up { Kind::Ack } else { Kind::Welcome };
        if control.flow != lane.flow || control.kind != expected {
            self.outcome.error("bad-reply");
            return;
        }
        lane.heard = Instant::now();
        if lane.server != server {
            lane.server = server.to_vec();
        }
        if control.kind == Kind::Ack {
            self.acknowledged(index, control);
        }
    }

    fn acknowledged(&mut self, index: usize, control: &Control) {
        let lane = &mut self.lanes[index];
        let first = lane.next - lane.waiting.len() as u64;
        if !(first..lane.next).contains(&control.train) {
            self.outcome.error("stray-acknowledgement");
            return;
        }
        // acknowledgements come in order, so one that is passed over was lost
        for _ in first..control.train {
            self.outcome.error("lost-train");
            lane.waiting.pop_front();
        }
        let sent = lane.waiting.pop_front();
        let Some(found) = control.tally.since(&lane.counted) else {
            self.outcome.error("bad-reply");
            return;
        };
        lane.counted = control.tally;
        self.count(index, found, true);
        if let Some(sent) = sent
            && self.is_measured()
        {
            self.outcome.latency.record(sent.elapsed());
        }
        while (self.lanes[index].waiting.len() as u64) < self.load.window {
            self.send(index);
        }
    }

    /// A datagram of a train of the server.
    fn take(&mut self, index: usize, bytes: &[u8]) {
        let lane = &mut self.lanes[index];
        lane.heard = Instant::now();
        let ended = lane.reader.take(bytes);
        let tally = lane.reader.tally();
        let found = tally.since(&lane.counted).unwrap_or_default();
        lane.counted = tally;
        self.count(index, found, ended.is_some());
        if let Some(train) = ended {
            self.tell(index, &Control { kind: Kind::Ack, flow: self.lanes[index].flow, train, tally });
        }
    }

    fn count(&mut self, index: usize, found: Tally, ended: bool) {
        for (kind, count) in found.errors() {
            self.outcome.errors(kind, count);
        }
        if self.is_measured() {
            self.outcome.bytes += found.good * DATAGRAM as u64;
            if ended {
                self.outcome.requests += 1;
                self.outcome.served_by(&self.lanes[index].server);
            }
        }
    }

    fn is_measured(&self) -> bool {
        let since = self.start.elapsed();
        since >= self.load.warmup && since < self.load.warmup + self.load.seconds
    }

    /// What was lost is counted, and the flow goes on.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let oldest = if self.load.direction == Direction::Up { lane.waiting.front() } else { Some(&lane.heard) };
            if oldest.is_none_or(|begun| now.saturating_duration_since(*begun) <= PATIENCE) {
                continue;
            }
            self.outcome.error("lost-train");
            if self.load.direction == Direction::Up {
                lane.waiting.pop_front();
                self.send(index);
            } else {
                let beyond = lane.reader.train() + self.load.window + 1;
                self.ask(index, beyond);
            }
        }
    }
}
