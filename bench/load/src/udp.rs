//! Requests over UDP: one epoll thread, a new socket for each request (`udp-new`) or kept ones (`udp-flow`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::args::Args;
use crate::datagram;
use crate::poll;
use crate::report::Outcome;
use crate::targets::Targets;

/// A request without a reply for this long is an error: nothing may be lost where no queue can be full.
const PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(50);
/// Requests under way at most, on each socket.
const MAX_WINDOW: usize = 256;

/// A `udp-new` or `udp-flow` command.
pub struct Load {
    /// A socket for one request only.
    fresh: bool,
    targets: Targets,
    sources: Vec<IpAddr>,
    sockets: usize,
    window: usize,
    seconds: Duration,
    warmup: Duration,
}

impl Load {
    /// Read the options of the command.
    pub fn from_args(command: &str, args: &mut Args) -> Result<Self, String> {
        let fresh = command == "udp-new";
        let load = Self {
            fresh,
            targets: Targets::from_args(args, None)?,
            sources: if fresh { args.hosts("sources")? } else { Vec::new() },
            sockets: if fresh { args.value("clients", 32)? } else { args.value("flows", 1)? },
            window: if fresh { 1 } else { args.value("window", 32)? },
            seconds: args.seconds("seconds", 2.0)?,
            warmup: args.seconds("warmup", 0.3)?,
        };
        if load.window == 0 || load.window > MAX_WINDOW {
            return Err(format!("--window must be from 1 to {MAX_WINDOW}"));
        }
        Ok(load)
    }
}

/// One request under way; when it is answered, its place sends the next one.
struct Place {
    token: u64,
    begun: Instant,
}

struct Flow {
    socket: UdpSocket,
    places: Vec<Place>,
}

struct Client<'a> {
    load: &'a Load,
    targets: Targets,
    epoll: OwnedFd,
    flows: Vec<Flow>,
    opened: usize,
    /// Requests made; the upper bits of a token, its lowest 8 are the place.
    made: u64,
    start: Instant,
    outcome: Outcome,
}

/// Run the load and report what was verified.
pub fn run(load: &Load) -> io::Result<Outcome> {
    let mut client = Client {
        load,
        targets: load.targets.clone(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        flows: Vec::new(),
        opened: 0,
        made: 0,
        start: Instant::now(),
        outcome: Outcome { window: load.seconds, ..Outcome::default() },
    };
    for index in 0..load.sockets {
        let socket = client.open(index)?;
        client.flows.push(Flow { socket, places: Vec::new() });
        for place in 0..load.window {
            client.flows[index].places.push(Place { token: 0, begun: client.start });
            client.send(index, place);
        }
    }
    client.drive()?;
    Ok(client.outcome)
}

impl Client<'_> {
    fn drive(&mut self) -> io::Result<()> {
        let end = self.start + self.load.warmup + self.load.seconds;
        let mut events = Vec::with_capacity(512);
        let mut next_tick = self.start + TICK;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if now >= next_tick {
                self.expire(now)?;
                next_tick = now + TICK;
            }
            poll::wait(&self.epoll, &mut events, Some(next_tick.min(end).saturating_duration_since(now)))?;
            for event in &events {
                self.ready(event.data.u64() as usize)?;
            }
        }
    }

    /// A connected socket: it takes nothing but what comes from the address that was dialled.
    fn open(&mut self, index: usize) -> io::Result<UdpSocket> {
        let target = self.targets.next();
        let source = match self.load.sources.len() {
            0 if target.is_ipv4() => Ipv4Addr::UNSPECIFIED.into(),
            0 => Ipv6Addr::UNSPECIFIED.into(),
            count => self.load.sources[self.opened % count],
        };
        self.opened += 1;
        let socket = UdpSocket::bind((source, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
        Ok(socket)
    }

    fn send(&mut self, index: usize, place: usize) {
        self.made += 1;
        let token = self.made << 8 | place as u64;
        let flow = &mut self.flows[index];
        flow.places[place] = Place { token, begun: Instant::now() };
        if let Err(error) = flow.socket.send(&datagram::request(token)) {
            self.outcome.error(kind_of(&error));
        }
    }

    /// Read replies until there are none.
    fn ready(&mut self, index: usize) -> io::Result<()> {
        let mut bytes = [0; datagram::SIZE + 1];
        loop {
            let length = match self.flows[index].socket.recv(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    self.outcome.error(kind_of(&error));
                    continue;
                }
            };
            let Some((token, server)) = datagram::decode(&bytes[..length]) else {
                self.outcome.error("bad-reply");
                continue;
            };
            let place = (token & 0xff) as usize;
            let begun = match self.flows[index].places.get(place) {
                Some(waiting) if waiting.token == token => waiting.begun,
                _ => {
                    self.outcome.error("stray-reply");
                    continue;
                }
            };
            self.count(begun, server);
            if self.load.fresh {
                self.flows[index].socket = self.open(index)?;
                self.send(index, place);
                return Ok(());
            }
            self.send(index, place);
        }
    }

    fn count(&mut self, begun: Instant, server: &[u8]) {
        let now = Instant::now();
        let since = now - self.start;
        if since >= self.load.warmup && since < self.load.warmup + self.load.seconds {
            self.outcome.requests += 1;
            self.outcome.bytes += datagram::SIZE as u64;
            self.outcome.latency.record(now - begun);
            self.outcome.served_by(server);
        }
    }

    /// What was lost is counted, and asked again.
    fn expire(&mut self, now: Instant) -> io::Result<()> {
        for index in 0..self.flows.len() {
            for place in 0..self.load.window {
                if now.saturating_duration_since(self.flows[index].places[place].begun) <= PATIENCE {
                    continue;
                }
                self.outcome.error("timeout");
                if self.load.fresh {
                    self.flows[index].socket = self.open(index)?;
                }
                self.send(index, place);
            }
        }
        Ok(())
    }
}

/// The name of an error of a datagram socket.
pub fn kind_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::WouldBlock => "send-buffer-full",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        _ => "other",
    }
}
