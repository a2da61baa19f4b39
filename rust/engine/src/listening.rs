//! Sockets that a host hands over: to listen on them, to give them another meaning, to close them.

use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering::Release;

use spliceway_io::poll::Interest;
use spliceway_io::{Errno, adopt, socket, udp as io_udp};

use crate::accept;
use crate::config::EngineError;
use crate::engine::{Engine, lock};
use crate::flow::Token;
use crate::listener::Serves;
use crate::registry::Registry;
use crate::routes::ClientClass;
use crate::shared::Message;

impl Engine {
    /// Serve the listening TCP socket, or bound UDP socket, `fd`, which is owned from now on, for pool `pool`.
    ///
    /// # Errors
    /// The engine is closed, or `fd` is no such socket.
    pub fn add_listener(&self, fd: RawFd, pool: &str) -> Result<usize, EngineError> {
        self.listen(fd, false, |registry| Ok(Serves::Pool(registry.attach(pool))))
    }

    /// Serve the transparent socket `fd`, which is owned from now on, by the routes.
    ///
    /// # Errors
    /// `class` is unknown, the engine is closed, or `fd` is no listening TCP socket and no bound UDP socket.
    pub fn add_transparent_listener(&self, fd: RawFd, class: &str) -> Result<usize, EngineError> {
        let class = class.parse::<ClientClass>().map_err(EngineError::Config);
        self.listen(fd, true, |_| class.map(Serves::Routes))
    }

    fn listen(
        &self,
        fd: RawFd,
        diverted: bool,
        serves: impl FnOnce(&mut Registry) -> Result<Serves, EngineError>,
    ) -> Result<usize, EngineError> {
        let io = |source| EngineError::Io { what: "cannot listen", source };
        let fd: OwnedFd = adopt::adopt(fd).map_err(io)?;
        if io_udp::is_datagram(&fd).map_err(|errno| io(errno.into()))? {
            return self.listen_for_datagrams(fd, diverted, serves);
        }
        socket::prepare_listener(&fd).map_err(|errno| io(errno.into()))?;
        let mut registry = lock(&self.registry);
        self.check_open()?; // under the lock that `stop` takes: no listener is left behind
        let number = self.shared.listeners.add(fd, serves(&mut registry)?);
        drop(registry);
        for worker in 0..self.shared.doors.len() {
            if let Err(errno) = accept::watch(&self.shared, worker, &[number]) {
                let _ = self.remove_listener(number);
                return Err(io(errno.into()));
            }
        }
        Ok(number)
    }

    fn listen_for_datagrams(
        &self,
        fd: OwnedFd,
        diverted: bool,
        serves: impl FnOnce(&mut Registry) -> Result<Serves, EngineError>,
    ) -> Result<usize, EngineError> {
        let io = |errno: Errno| EngineError::Io { what: "cannot listen", source: errno.into() };
        let told = io_udp::prepare_listener(&fd, diverted).map_err(io)?;
        let mut registry = lock(&self.registry);
        self.check_open()?; // as for connections
        let serves = serves(&mut registry)?;
        let (number, worker) = self.shared.listeners.add_datagrams(fd, serves, told, self.shared.doors.len());
        // Under the lock that `apply` takes to publish: one of both sees the other.
        self.shared.serves_datagrams.store(true, Release);
        drop(registry);
        let Some(listener) = self.shared.listeners.get(number) else { return Ok(number) };
        let watched = listener
            .open()
            .socket
            .as_ref()
            .map(|fd| self.shared.doors[worker].poll.add(fd, Token::Datagrams(number).encode(), Interest::READ));
        if let Some(Err(errno)) = watched {
            let _ = self.remove_listener(number);
            return Err(io(errno));
        }
        Ok(number)
    }

    /// New flows of `listener` go to `pool`.
    ///
    /// # Errors
    /// No such listener.
    pub fn retarget_listener(&self, listener: usize, pool: &str) -> Result<(), EngineError> {
        let mut registry = lock(&self.registry);
        let entry = self.shared.listeners.get(listener).ok_or(EngineError::UnknownListener(listener))?;
        let before = entry.retarget(Serves::Pool(registry.attach(pool)));
        detach(&mut registry, before);
        Ok(())
    }

    /// Close `listener` before returning. Connections that wait in its queue are served; UDP sessions that came to an
    /// ordinary socket end with it, since no answer could leave.
    ///
    /// # Errors
    /// No such listener.
    pub fn remove_listener(&self, listener: usize) -> Result<(), EngineError> {
        let mut registry = lock(&self.registry);
        let entry = self.shared.listeners.take(listener).ok_or(EngineError::UnknownListener(listener))?;
        let number = listener;
        let (listener, serves) = entry.take();
        if let (Some(fd), Some(datagrams)) = (&listener, entry.datagrams) {
            let door = &self.shared.doors[datagrams.worker];
            let _ = door.poll.remove(fd);
            door.send(Message::DatagramsClosed(number));
        } else if let Some(listener) = listener {
            accept::rescue(&self.shared, &listener, serves);
            socket::close_listener(listener);
        }
        detach(&mut registry, serves);
        Ok(())
    }
}

/// A listener does not serve what it did any more.
fn detach(registry: &mut Registry, serves: Serves) {
    if let Serves::Pool(slot) = serves {
        registry.detach(slot);
    }
}
