//! Datagrams through real sockets on loopback: nothing is cut, mixed up or sent from the wrong address.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use spliceway_io::Errno;
use spliceway_io::udp::{self, Arrival, LARGEST, Outgoing, ReceiveBatch, SendBatch, Sent};

const PATIENCE: Duration = Duration::from_secs(10);

fn bound(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(batch: &mut ReceiveBatch, fd: impl AsFd, wanted: usize) -> usize {
    let until = Instant::now() + PATIENCE;
    let mut got = 0;
    while got < wanted {
        match batch.receive(&fd, got, wanted - got) {
            Ok(more) => got += more,
            Err(errno) => assert_eq!(errno, Errno::AGAIN),
        }
        assert!(Instant::now() < until, "{got} of {wanted} datagrams came");
    }
    got
}

fn plain(bytes: &[u8]) -> Outgoing<'_> {
    Outgoing { bytes, to: None, from: None, segment: 0, joins: true }
}

/// An empty datagram is a datagram, and the largest one must come whole (C-09).
#[test]
fn one_batch_carries_datagrams_of_every_size_in_order() {
    let (listener, client) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    let (address, arrival) = udp::prepare_listener(&listener, false).unwrap();
    assert_eq!((address, arrival), (listener.local_addr().unwrap(), Arrival::Bound));
    let sizes = [0, 1, 1472, 9000, LARGEST, 0, 3];
    for (index, &size) in sizes.iter().enumerate() {
        client.send_to(&vec![index as u8; size], address).unwrap();
    }
    let mut batch = ReceiveBatch::new(8);
    assert_eq!(receive(&mut batch, &listener, sizes.len()), sizes.len());
    for (slot, &size) in sizes.iter().enumerate() {
        assert_eq!(batch.bytes(slot), vec![slot as u8; size], "slot {slot}");
        assert_eq!(batch.peer(slot), Some(client.local_addr().unwrap()));
        assert_eq!(batch.told(slot), (None, 0));
    }
    assert_eq!(batch.receive(&listener, 0, 8), Err(Errno::AGAIN));
    assert_eq!(batch.receive(&listener, 8, 8), Ok(0), "no slot is left");
}

/// A client that dialled one of several addresses takes no answer from another one.
#[test]
fn a_socket_on_all_addresses_answers_from_the_one_dialled() {
    for (any, dialled, from) in [
        ("0.0.0.0:0", "127.0.0.7", "127.0.0.1:0"),
        ("[::]:0", "127.0.0.8", "127.0.0.1:0"), // IPv4 clients of a socket of both families
        ("[::]:0", "::1", "[::1]:0"),
    ] {
        let (listener, client) = (bound(any), bound(from));
        let (address, arrival) = udp::prepare_listener(&listener, false).unwrap();
        assert_eq!(arrival, Arrival::AnyLocal);
        let dialled = SocketAddr::new(dialled.parse().unwrap(), address.port());
        client.connect(dialled).unwrap(); // takes datagrams from there only
        client.send(b"who?").unwrap();
        let mut batch = ReceiveBatch::new(1);
        receive(&mut batch, &listener, 1);
        let (told, _) = batch.told(0);
        assert_eq!(told.map(|to| to.ip().to_canonical()), Some(dialled.ip()));
        let reply = Outgoing { to: batch.peer(0), from: told, ..plain(b"me") };
        assert_eq!(SendBatch::new(1).send(&listener, [reply]), Ok(1));
        let mut answer = [0; 8];
        assert_eq!(client.recv(&mut answer).unwrap(), 2);
    }
}

/// A train that is sent as one call arrives as the same datagrams, joined or apart as the receiver wants them.
#[test]
fn trains_keep_their_datagrams() {
    for join in [true, false] {
        let receiver = bound("127.0.0.1:0");
        receiver.set_nonblocking(true).unwrap();
        if join {
            udp::join_trains(&receiver);
        }
        let sender = udp::open_upstream(receiver.local_addr().unwrap(), None, 0).unwrap();
        let bytes: Vec<u8> = (0..2500_u32).map(|n| n as u8).collect();
        let train = Outgoing { segment: 1000, ..plain(&bytes) };
        assert_eq!(train.datagrams(), 3);
        assert_eq!(SendBatch::new(4).send(&sender, [train]), Ok(1));
        let mut batch = ReceiveBatch::new(4);
        if join {
            receive(&mut batch, &receiver, 1);
            assert_eq!((batch.bytes(0), batch.told(0)), (&bytes[..], (None, 1000)));
        } else {
            receive(&mut batch, &receiver, 3);
            let apart: Vec<_> = (0..3).map(|index| train.part(index).bytes).collect();
            assert_eq!((0..3).map(|slot| batch.bytes(slot)).collect::<Vec<_>>(), apart);
        }
    }
}

/// Equal datagrams of one batch leave as one train, and nothing that is not alike is ever joined with them.
#[test]
fn equal_datagrams_of_one_way_are_joined() {
    let receivers = [bound("127.0.0.1:0"), bound("127.0.0.1:0")];
    receivers.iter().for_each(udp::join_trains);
    let sender = bound("127.0.0.1:0");
    let bytes: Vec<u8> = (0..=255).collect();
    let message = |(to, from, length): (usize, usize, usize)| Outgoing {
        to: Some(receivers[to].local_addr().unwrap()),
        ..plain(&bytes[from..from + length])
    };
    let shapes = [
        [(0, 0, 100), (0, 1, 100), (0, 2, 40), (0, 3, 100)], // the shorter one ends a train
        [(1, 4, 100), (1, 5, 100), (0, 6, 100), (0, 7, 0)],  // and so does another receiver's, or an empty one
        [(0, 8, 0), (0, 9, 50), (0, 10, 60), (1, 11, 60)],   // a longer one as well
    ];
    let shapes: Vec<_> = shapes.into_iter().flatten().collect();
    assert_eq!(SendBatch::new(16).send(&sender, shapes.iter().copied().map(message)), Ok(shapes.len()));
    let wanted: [&[(usize, u16)]; 2] =
        [&[(240, 100), (100, 0), (100, 0), (0, 0), (0, 0), (50, 0), (60, 0)], &[(200, 100), (60, 0)]];
    for (number, wanted) in wanted.into_iter().enumerate() {
        let mut batch = ReceiveBatch::new(16);
        assert_eq!(receive(&mut batch, &receivers[number], wanted.len()), wanted.len());
        let got: Vec<_> = (0..wanted.len()).map(|slot| (batch.bytes(slot).len(), batch.told(slot).1)).collect();
        assert_eq!(got, wanted, "what receiver {number} got");
        let whole: Vec<u8> = (0..wanted.len()).flat_map(|slot| batch.bytes(slot)).copied().collect();
        let sent = shapes.iter().filter(|shape| shape.0 == number);
        assert_eq!(whole, sent.flat_map(|&(_, from, length)| &bytes[from..from + length]).copied().collect::<Vec<_>>());
    }
}

/// On a way that takes no trains every datagram must still leave, and the caller learns to send them one by one.
#[test]
fn where_trains_are_refused_datagrams_go_one_by_one() {
    let receiver = bound("127.0.0.1:0");
    let sender = udp::open_upstream(receiver.local_addr().unwrap(), None, 0).unwrap();
    let on = 1_i32;
    // SAFETY: the option's value is an `i32` that outlives the call, and its length is given with it.
    let told = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_NO_CHECK); // without checksums there are no trains
        libc::setsockopt(sender.as_raw_fd(), level, name, (&raw const on).cast(), size_of_val(&on) as libc::socklen_t)
    };
    assert_eq!(told, 0);
    let bytes: Vec<u8> = (0..90).collect();
    let train = Outgoing { segment: 20, ..plain(&bytes[..50]) };
    let message = |index: usize| if index == 0 { train } else { plain(&bytes[30 + 20 * index..][..20]) };
    let mut batch = SendBatch::new(4);
    let once = Sent { done: 3, bytes: 90, ..Sent::default() };
    assert_eq!(batch.send_all(&sender, 3, &message), Sent { refused: Some(0), trains_refused: 2, ..once });
    let apart = |index: usize| Outgoing { joins: false, ..message(index) };
    assert_eq!(batch.send_all(&sender, 3, &apart), once, "what is sent apart is not refused");
    let mut room = [0; 100];
    for (from, length) in [(0, 20), (20, 20), (40, 10), (50, 20), (70, 20)].repeat(2) {
        let size = receiver.recv(&mut room).unwrap();
        assert_eq!(room[..size], bytes[from..from + length]);
    }
}

/// What the kernel refuses as a train must go one by one, between what came before and after it.
#[test]
fn a_refused_train_goes_apart() {
    let receiver = bound("127.0.0.1:0");
    let sender = udp::open_upstream(receiver.local_addr().unwrap(), None, 0).unwrap();
    let bytes: Vec<u8> = (0..200).collect();
    let train = Outgoing { segment: 1, ..plain(&bytes) }; // more datagrams than the kernel sends at once
    let mut batch = SendBatch::new(3);
    assert!(matches!(batch.send(&sender, [train]), Err(Errno::INVAL | Errno::MSGSIZE)));
    let sent = batch.send_all(&sender, 4, &|index| if index == 2 { train } else { plain(b"single") });
    assert_eq!(sent, Sent { done: 4, bytes: 200 + 18, refused: Some(2), trains_refused: 1, ..Sent::default() });
    let mut room = [0; 10];
    let mut got = Vec::new();
    for _ in 0..203 {
        let size = receiver.recv(&mut room).unwrap();
        got.push(room[..size].to_vec());
    }
    let singles = std::iter::repeat_n(b"single".to_vec(), 2);
    let wanted: Vec<_> = singles.chain(bytes.iter().map(|&b| vec![b])).chain([b"single".to_vec()]).collect();
    assert_eq!(got, wanted);
}

/// A datagram that cannot leave is lost alone: those around it are sent, and it is counted.
#[test]
fn a_datagram_that_is_too_long_is_dropped_alone() {
    let receiver = bound("127.0.0.1:0");
    let sender = udp::open_upstream(receiver.local_addr().unwrap(), None, 0).unwrap();
    let long = vec![0; LARGEST + 1];
    let sent = SendBatch::new(4).send_all(&sender, 3, &|index| plain(if index == 1 { &long } else { b"x" }));
    assert_eq!(sent, Sent { done: 3, bytes: 2, dropped: 1, ..Sent::default() });
}

/// The refusal of a backend must reach us: it is what makes us try another one (C-09).
#[test]
fn a_closed_port_is_told() {
    let address = bound("127.0.0.1:0").local_addr().unwrap(); // closed again
    let socket: OwnedFd = udp::open_upstream(address, None, 0).unwrap();
    let (mut sent, mut got) = (SendBatch::new(1), ReceiveBatch::new(1));
    assert_eq!(sent.send(&socket, [plain(b"x")]), Ok(1));
    let until = Instant::now() + PATIENCE;
    let errno = loop {
        match got.receive(&socket, 0, 1) {
            Err(Errno::AGAIN) => assert!(Instant::now() < until, "no error came"),
            other => break other,
        }
    };
    assert_eq!(errno, Err(Errno::CONNREFUSED));
    assert_eq!(udp::take_error(&socket), None, "receiving took it");
    assert_eq!(sent.send(&socket, [plain(b"x")]), Ok(1));
    while Instant::now() < until {
        match udp::take_error(&socket) {
            Some(errno) => return assert_eq!(errno, Errno::CONNREFUSED),
            None => std::thread::yield_now(),
        }
    }
    panic!("no error came");
}

/// A socket that cannot serve datagrams must be refused at once, with a reason.
#[test]
fn only_bound_datagram_sockets_listen() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(udp::prepare_listener(&tcp, false), Err(Errno::OPNOTSUPP));
    assert_eq!(udp::is_datagram(&tcp), Ok(false));
    let (unix, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert_eq!(udp::prepare_listener(&unix, false), Err(Errno::OPNOTSUPP));
}
