//! What the session machine adds to each message that is relayed.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use spliceway_core::session::{Session, Side, Step};

/// What the engine asks and tells for one message that is read whole and written whole.
fn message(session: &mut Session, from: Side, length: usize) -> Step {
    if !session.may_read(from) {
        return Step::Go;
    }
    session.read(from, length);
    session.written(from, length)
}

fn sessions(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    let mut session = Session::new(0);
    session.connected();
    group.bench_function("keep-alive request", |b| {
        b.iter(|| {
            let session = black_box(&mut session);
            let request = message(session, Side::Client, black_box(64));
            let reply = message(session, Side::Backend, black_box(64));
            (request, reply, session.wants(Side::Client), session.wants(Side::Backend))
        });
    });
    group.bench_function("connection of one request", |b| {
        b.iter(|| {
            let mut session = black_box(Session::new(0));
            session.connected();
            let moved = (message(&mut session, Side::Client, 64), message(&mut session, Side::Backend, black_box(64)));
            let ends = [Side::Backend, Side::Client].map(|side| (session.read_end(side), session.after_shutdown()));
            (moved, ends)
        });
    });
    group.finish();
}

criterion_group!(benches, sessions);
criterion_main!(benches);
