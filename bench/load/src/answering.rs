//! The backend's side of UDP: small requests are answered, trains verified and acknowledged, or sent as a QUIC server
//! would.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use crate::batch::{self, Batch};
use crate::datagram;
use crate::train::{self, Control, Flow, Kind, Reader, Tally, Writer};

/// Bytes that may wait: the clients' windows are smaller, so nothing is lost here.
const BUFFER: usize = 64 << 20;
/// Calls that receive in a row before others have their turn.
const TURN: usize = 64;
/// Flows after which those of earlier runs are forgotten.
const FLOWS: usize = 65_536;

/// A socket for datagrams and what is known of its clients.
pub struct Answering {
    socket: UdpSocket,
    name: Vec<u8>,
    reply: [u8; datagram::SIZE],
    /// Several datagrams are received in one call. Only trains are, for servers of small requests do not ask for it.
    coalescing: bool,
    flows: HashMap<SocketAddr, Session>,
    writer: Writer,
}

/// A flow of trains.
enum Session {
    /// From the client.
    Up(Reader),
    /// To the client.
    Down {
        flow: Flow,
        /// The next train.
        next: u64,
        /// The train that is to be acknowledged.
        waited: u64,
    },
}

impl Session {
    const fn flow(&self) -> Flow {
        match self {
            Self::Up(reader) => reader.flow(),
            Self::Down { flow, .. } => *flow,
        }
    }
}

impl Answering {
    /// Open the socket.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        batch::set_buffers(&socket, BUFFER)?;
        batch::segment(&socket)?;
        Ok(Self {
            socket,
            name: address.to_string().into_bytes(),
            reply: datagram::template(address),
            coalescing: false,
            flows: HashMap::new(),
            writer: Writer::new(),
        })
    }

    /// The socket, for epoll.
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Answer what waits. Errors are those of clients that have gone.
    pub fn answer(&mut self, batch: &mut Batch) {
        for _ in 0..TURN {
            let received = match batch.receive(&self.socket) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => continue,
            };
            let Some(client) = received.from else { continue };
            for bytes in received.datagrams() {
                self.take(client, bytes);
            }
        }
    }

    fn take(&mut self, client: SocketAddr, bytes: &[u8]) {
        if datagram::answer(bytes, &mut self.reply) {
            self.expect_trains(false);
            self.send(client, &self.reply);
        } else if let Some(flow) = train::flow_of(bytes) {
            self.take_train(client, flow, bytes);
        } else if let Some((control, _)) = Control::decode(bytes) {
            self.obey(client, &control);
        } else if let Some(Session::Up(reader)) = self.flows.get_mut(&client) {
            // damaged so badly that it does not look like a part of a train
            reader.take(bytes);
        }
    }

    fn take_train(&mut self, client: SocketAddr, flow: Flow, bytes: &[u8]) {
        self.expect_trains(true);
        let known = matches!(self.flows.get(&client), Some(Session::Up(reader)) if reader.flow().run == flow.run);
        if !known {
            self.remember(client, Session::Up(Reader::new(flow, 0)));
        }
        let Some(Session::Up(reader)) = self.flows.get_mut(&client) else { return };
        if let Some(train) = reader.take(bytes) {
            let ack = Control { kind: Kind::Ack, flow: reader.flow(), train, tally: reader.tally() };
            self.send(client, &ack.encode(&self.name));
        }
    }

    fn obey(&mut self, client: SocketAddr, control: &Control) {
        let flow = control.flow;
        match (control.kind, self.flows.get_mut(&client)) {
            (Kind::Get, _) => {
                self.expect_trains(true);
                let (first, window) = (control.train, control.tally.good.clamp(1, train::MAX_WINDOW));
                let welcome = Control { kind: Kind::Welcome, tally: Tally::default(), ..*control };
                self.send(client, &welcome.encode(&self.name));
                self.remember(client, Session::Down { flow, next: first + window, waited: first });
                (first..first + window).for_each(|train| self.send_train(client, flow, train));
            }
            (Kind::Ack, Some(Session::Down { flow: known, next, waited }))
                if *known == flow && *waited == control.train =>
            {
                let train = *next;
                *next += 1;
                *waited += 1;
                self.send_train(client, flow, train);
            }
            // one that is late or strange: the client finds that trains stay away
            _ => {}
        }
    }

    fn remember(&mut self, client: SocketAddr, session: Session) {
        if self.flows.len() >= FLOWS {
            let run = session.flow().run;
            self.flows.retain(|_, known| known.flow().run == run);
        }
        self.flows.insert(client, session);
    }

    fn expect_trains(&mut self, yes: bool) {
        if self.coalescing != yes && batch::coalesce(&self.socket, yes).is_ok() {
            self.coalescing = yes;
        }
    }

    fn send_train(&mut self, client: SocketAddr, flow: Flow, train: u64) {
        // one that does not leave is one that the client misses
        let _sent = self.socket.send_to(self.writer.write(flow, train), client);
    }

    fn send(&self, client: SocketAddr, bytes: &[u8]) {
        let _sent = self.socket.send_to(bytes, client);
    }
}
