//! From clients to backends: read what waits at a listener, gather it by session, send it on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use spliceway_core::retry::MAX_TRIES;
use spliceway_core::session::End;
use spliceway_io::udp::{Arrival, Outgoing, ReceiveBatch};

use super::BATCH;
use super::key::Key;
use super::session::{Counted, Fresh, Session, Via};
use super::table::SessionId;
use crate::listener::{Datagrams, Serves};
use crate::routes::{Target, Transport};
use crate::worker::Worker;

/// Where the datagrams of a batch come from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    listener: usize,
    datagrams: Datagrams,
    serves: Serves,
}

impl Origin {
    fn via(&self) -> Via {
        match self.serves {
            Serves::Pool(_) => {
                Via::Listener { number: self.listener, any: self.datagrams.arrival == Arrival::AnyLocal }
            }
            Serves::Routes(class) => Via::Diverted(class),
        }
    }

    /// The address that the client of the datagram in `slot` dialled.
    fn dialled(&self, inbox: &ReceiveBatch, slot: usize) -> Option<SocketAddr> {
        match self.datagrams.arrival {
            Arrival::Bound => Some(self.datagrams.address),
            Arrival::AnyLocal => inbox.told(slot).0.map(|mut local| {
                local.set_port(self.datagrams.address.port());
                local
            }),
            Arrival::Diverted => inbox.told(slot).0,
        }
    }
}

/// The datagrams of a batch by client, while it is served.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// By slot; taken out when served.
    keys: Vec<Option<Key>>,
    /// The slots of one session, in order.
    slots: Vec<usize>,
}

impl Gathered {
    /// The next client that was not served yet; its slots are in `slots`.
    fn next(&mut self, from: usize) -> Option<(usize, Key)> {
        let first = (from..self.keys.len()).find(|&slot| self.keys[slot].is_some())?;
        let key = self.keys[first].take()?;
        self.slots.clear();
        self.slots.push(first);
        for slot in first + 1..self.keys.len() {
            if self.keys[slot] == Some(key) {
                self.keys[slot] = None;
                self.slots.push(slot);
            }
        }
        Some((first, key))
    }
}

impl Worker {
    /// Datagrams wait at listener `number`.
    pub(crate) fn datagrams_wait(&mut self, number: usize) {
        let Some(listener) = self.shared().listeners.get(number) else { return };
        let Some(datagrams) = listener.datagrams else { return };
        let mut inbox = self.udp.inbox.take().unwrap_or_else(|| Box::new(ReceiveBatch::new(BATCH)));
        // Held while the slot is used, so that the slot cannot pass to another pool meanwhile.
        let open = listener.open();
        // An error is that of a reply which could not be delivered, and gone with this.
        if let Some(Ok(count)) = open.socket.as_ref().map(|fd| inbox.receive(fd, 0, BATCH)) {
            self.serve_datagrams(&inbox, count, Origin { listener: number, datagrams, serves: open.serves });
        }
        drop(open);
        self.udp.inbox = Some(inbox);
    }

    fn serve_datagrams(&mut self, inbox: &ReceiveBatch, count: usize, origin: Origin) {
        let mut gathered = std::mem::take(&mut self.udp.gathered);
        gathered.keys.clear();
        gathered.keys.extend((0..count).map(|slot| {
            let (client, dialled) = (inbox.peer(slot)?, origin.dialled(inbox, slot)?);
            Some(Key { client, dialled })
        }));
        let mut from = 0;
        while let Some((first, key)) = gathered.next(from) {
            self.serve_client(key, inbox, &gathered.slots, origin);
            from = first + 1;
        }
        self.udp.gathered = gathered;
    }

    /// Send on what one client sent, in order.
    fn serve_client(&mut self, key: Key, inbox: &ReceiveBatch, slots: &[usize], origin: Origin) {
        let message = |slot: usize| {
            let (bytes, segment) = (inbox.bytes(slot), inbox.told(slot).1);
            Outgoing { bytes, to: None, from: None, segment, joins: true }
        };
        let mut rest = slots;
        // A backend that refused what came before has left its socket in error: what is left goes to another one.
        for _ in 0..=MAX_TRIES {
            let Some(id) = (!rest.is_empty()).then(|| self.session_of(key, origin)).flatten() else { break };
            rest = &rest[self.forward(id, rest.len(), &|index| message(rest[index]))..];
        }
        let lost: usize = rest.iter().map(|&slot| message(slot).datagrams()).sum();
        if lost > 0 {
            self.shared().bounds.datagrams_dropped.fetch_add(lost as u64, Relaxed);
        }
    }

    /// The session of a client, made if it is new; none when nothing serves it.
    fn session_of(&mut self, key: Key, origin: Origin) -> Option<SessionId> {
        if let Some(id) = self.udp.sessions.find(&key) {
            let via = self.udp.sessions.get(id)?.via;
            if via == origin.via() || matches!((via, origin.via()), (Via::Diverted(_), Via::Diverted(_))) {
                return Some(id);
            }
            self.finish_session(id, End::Closed); // its listener is gone, and this one has its address
        }
        let table = self.table.load(); // one generation: in the next one the slot may be another pool's
        let target = match origin.serves {
            Serves::Pool(slot) => Target { slot, keep_source: false },
            Serves::Routes(class) => table.route(Transport::Udp, key.dialled, class)?,
        };
        let pool = Arc::clone(table.pool(target.slot)?);
        if pool.usable().is_empty() {
            pool.state.flows.fetch_add(1, Relaxed);
            pool.state.no_backend.fetch_add(1, Relaxed);
            return None;
        }
        self.make_room_for_session()?;
        let session = Session {
            socket: None,
            serving: None,
            slot: target.slot,
            via: origin.via(),
            keep_source: target.keep_source,
            from: None,
            busy: false,
            joins_in: true,
            joins_out: true,
            counted: Counted::new(self.shared(), &pool.state),
            fresh: Some(Box::new(Fresh::new(pool, self.now))),
        };
        let (id, _none) = self.udp.sessions.insert(key, target.slot, self.now, session);
        self.dial_session(id).then_some(id)
    }

    /// Send a client's messages to its backend; tells how many are over.
    fn forward<'a>(&mut self, id: SessionId, count: usize, message: &dyn Fn(usize) -> Outgoing<'a>) -> usize {
        self.udp.sessions.touch(id, self.now, false);
        let Some(session) = self.udp.sessions.get_mut(id) else { return 0 };
        if session.keep_source && session.fresh.is_some() {
            self.notice_repetition(id, message(0).part(0).bytes);
        }
        let Some(session) = self.udp.sessions.get_mut(id) else { return 0 };
        let Some(socket) = session.socket.as_ref() else {
            self.hold_back(id, count, message);
            return count;
        };
        let joins = session.joins_in;
        let sent = self.udp.sender.send_all(socket, count, &|index| Outgoing { joins, ..message(index) });
        session.joins_in &= sent.refused.is_none();
        session.counted.pool.bytes_in.fetch_add(sent.bytes, Relaxed);
        if let Some(serving) = &session.serving {
            serving.0.bytes_in.fetch_add(sent.bytes, Relaxed);
        }
        if let Some(fresh) = session.fresh.as_mut() {
            for index in 0..sent.done {
                let _ = fresh.held.hold(message(index)); // what is too much is on its way all the same
            }
        }
        if sent.dropped > 0 {
            self.shared().bounds.datagrams_dropped.fetch_add(sent.dropped, Relaxed);
        }
        if sent.trains_refused > 0 {
            self.shared().bounds.trains_refused.fetch_add(sent.trains_refused, Relaxed);
        }
        if let Some(errno) = sent.failed {
            self.session_failed(id, errno);
        }
        sent.done
    }

    /// The session waits before it tries its backend again: its datagrams wait as well, as far as there is room.
    fn hold_back<'a>(&mut self, id: SessionId, count: usize, message: &dyn Fn(usize) -> Outgoing<'a>) {
        let Some(fresh) = self.udp.sessions.get_mut(id).and_then(|session| session.fresh.as_mut()) else { return };
        let lost: usize = (0..count).map(message).map(|message| message.datagrams() - fresh.held.hold(message)).sum();
        if lost > 0 {
            self.shared().bounds.datagrams_dropped.fetch_add(lost as u64, Relaxed);
        }
    }
}
