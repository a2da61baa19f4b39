//! A worker's own failure.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::time::{Duration, Instant};

use spliceway_core::pool::{BackendSpec, Balance, PoolSpec};
use spliceway_core::retry::RetryPolicy;

use crate::engine::Batch;
use crate::events::EventKind;
use crate::shared::Message;
use crate::{Config, Engine};

fn echo_once(address: std::net::SocketAddr) -> std::io::Result<()> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.write_all(b"x")?;
    client.read_exact(&mut [0])
}

/// A bug in one worker must cost its own flows only: the process, and all that comes later, goes on.
#[test]
fn a_worker_that_panics_is_started_again() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let backends = vec![BackendSpec { address: backend.local_addr().unwrap(), weight: 1, healthy: true }];
    std::thread::spawn(move || {
        for connection in backend.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                let _ = (&connection).read_exact(&mut byte).and_then(|()| (&connection).write_all(&byte));
            });
        }
    });
    let engine = Engine::new(Config { workers: 1, ..Config::default() }).unwrap();
    engine.start().unwrap();
    let retry = RetryPolicy::default();
    let (name, balance) = ("p".into(), Balance::Maglev);
    let spec = PoolSpec { name, balance, retry, drain: None, affinity: None, backends };
    engine.apply(Batch { upserts: vec![spec], generation: 1, ..Batch::default() }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    engine.add_listener(listener.into_raw_fd(), "p").unwrap();
    echo_once(address).unwrap();
    let mut idle = TcpStream::connect(address).unwrap();
    engine.shared().doors[0].send(Message::Panic);
    idle.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let lost = idle.read(&mut [0]).unwrap_err(); // an end would make a cut reply look complete
    assert_eq!(lost.kind(), std::io::ErrorKind::ConnectionReset);
    echo_once(address).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while engine.counters(false).flows > 0 {
        assert!(Instant::now() < until, "flows must not stay counted");
        std::thread::yield_now();
    }
    assert_eq!(engine.counters(false).worker_panics, 1);
    assert!(engine.take_events(10).iter().any(|e| e.kind == EventKind::WorkerDied && e.reason == "as the test asked"));
    engine.close(Duration::from_secs(5));
}
