//! One relayed TCP connection pair as a state machine without I/O.
//!
//! The engine moves bytes and tells the session what happened; the session answers what to do next and which readiness
//! is of interest. It knows how many bytes wait where, never which.
//!
//! ```text
//!            connected()                        both halves done
//!  Dialling ────────────▶ Relaying ────────────────────────────────▶ Ended(Closed)
//!     ▲                      │ │ reset by either side ─────────────▶ Ended(ClientReset | BackendReset)
//!     └── Step::Redial ──────┘ └ cut() ────────────────────────────▶ Ended(Drained)
//! ```
//! Each direction is a half: `Open → Draining` (its source has ended, bytes still wait) `→ Done` (the end was passed on as
//! a half-close), or `Broken` (its destination takes no more: bytes from its source are not read any more).
//!
//! However a session ends, each socket is closed as the direction towards it ended ([`Session::complete`]): in order when
//! all that was sent to it has been passed on, the end included, and with RST otherwise.

/// An end of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed in order.
    Closed,
    /// The client reset the connection; the backend is reset.
    ClientReset,
    /// The backend reset the connection; the client is reset.
    BackendReset,
    /// Cut by us at a drain deadline.
    Drained,
    /// No backend could be had; the client is reset.
    NoBackend,
}

/// What the engine has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing special: go on moving bytes.
    Go,
    /// Half-close the socket of this side (no more bytes will be written to it), unless [`Session::after_shutdown`] says
    /// that the session has ended.
    Shutdown(Side),
    /// Drop the backend's connection and dial another: the bytes held are pending again.
    Redial,
    /// Close both sockets, each as [`Session::complete`] says.
    End(End),
}

/// Readiness that matters for one side's socket now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Bytes of this side can be taken.
    pub read: bool,
    /// Bytes wait for this side.
    pub write: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HalfState {
    Open,
    Draining,
    Done,
    Broken,
}

#[derive(Clone, Copy, Debug)]
struct Half {
    state: HalfState,
    /// Bytes that were read and not yet written.
    pending: u32,
    /// Its source's end is there to be read, whatever else happens to the source.
    ends: bool,
}

impl Half {
    const NEW: Self = Self { state: HalfState::Open, pending: 0, ends: false };

    fn finished(self) -> bool {
        matches!(self.state, HalfState::Done | HalfState::Broken)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Dialling,
    Relaying,
    Ended,
}

/// The state of one connection pair. See the module's text.
#[derive(Clone, Debug)]
pub struct Session {
    phase: Phase,
    /// Client to backend.
    up: Half,
    /// Backend to client.
    down: Half,
    /// How many client bytes may be held for a replay; 0 once a replay is not possible any more.
    hold_limit: u32,
    /// Client bytes held so far.
    held: u32,
    /// No byte was read from either side yet.
    untouched: bool,
    /// The backend's connection stands for so short a time that its end without a byte is a failure.
    fresh: bool,
}

impl Session {
    /// A session whose backend is being dialled. `hold_limit` > 0 allows a replay: up to so many bytes of the client are
    /// held until the backend has sent its first byte.
    #[must_use]
    pub fn new(hold_limit: u32) -> Self {
        Self {
            phase: Phase::Dialling,
            up: Half::NEW,
            down: Half::NEW,
            hold_limit,
            held: 0,
            untouched: true,
            fresh: true,
        }
    }

    /// The backend's connection stands.
    pub fn connected(&mut self) {
        debug_assert_eq!(self.phase, Phase::Dialling);
        self.phase = Phase::Relaying;
        self.fresh = true;
    }

    /// The backend's connection has stood for a while: its end is an answer from now on, and no failure.
    pub fn settled(&mut self) {
        self.fresh = false;
    }

    /// Whether the backend's end now would be its failure: it was sent something, or was connected only just now.
    #[must_use]
    pub fn failing(&self) -> bool {
        self.fresh || self.held > 0
    }

    /// No backend can be had (any more).
    pub fn gave_up(&mut self) -> Step {
        self.end(End::NoBackend)
    }

    /// Cut the session at a deadline.
    pub fn cut(&mut self) -> Step {
        self.end(End::Drained)
    }

    /// The backend is being dialled.
    #[must_use]
    pub fn dialling(&self) -> bool {
        self.phase == Phase::Dialling
    }

    /// Whether client bytes that are read now must be kept for a replay.
    #[must_use]
    pub fn holding(&self) -> bool {
        self.hold_limit > 0
    }

    /// Whether a byte was read from either side.
    #[must_use]
    pub fn has_read(&self) -> bool {
        !self.untouched
    }

    /// Bytes of `from` that were read and not yet written.
    #[must_use]
    pub fn pending(&self, from: Side) -> usize {
        self.half(from).pending as usize
    }

    /// Whether `side` has reset the connection, and only what it sent before is still passed on.
    #[must_use]
    pub fn broken(&self, side: Side) -> bool {
        self.half(side.peer()).state == HalfState::Broken && !self.half(side).ends
    }

    /// Whether bytes may still be written to `side`, or its end.
    #[must_use]
    pub fn takes(&self, side: Side) -> bool {
        !self.half(side.peer()).finished()
    }

    /// Whether `side` was sent all that its peer had for it, the end included: its socket is to be closed in order. With a
    /// reset instead, bytes on their way to it would be lost; in order without this, a cut reply would look complete.
    #[must_use]
    pub fn complete(&self, side: Side) -> bool {
        self.half(side.peer()).state == HalfState::Done
    }

    /// Whether bytes of `from` may be read: its direction is open, and all that was read before has been written.
    #[must_use]
    pub fn may_read(&self, from: Side) -> bool {
        let half = self.half(from);
        self.phase == Phase::Relaying && half.state == HalfState::Open && half.pending == 0
    }

    /// What readiness of `side` is of interest.
    #[must_use]
    pub fn wants(&self, side: Side) -> Wants {
        Wants { read: self.may_read(side), write: self.phase == Phase::Relaying && self.half(side.peer()).pending > 0 }
    }

    /// `n` > 0 bytes of `from` were read; they are pending until they are [`written`](Self::written).
    ///
    /// The backend's first byte, or more client bytes than the limit, make a replay impossible: [`holding`](Self::holding)
    /// is false afterwards and what was held can be forgotten.
    pub fn read(&mut self, from: Side, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        debug_assert!(self.may_read(from) && n > 0);
        self.untouched = false;
        self.half_mut(from).pending = n;
        match from {
            Side::Client if self.hold_limit > 0 => {
                self.held = self.held.saturating_add(n);
                if self.held > self.hold_limit {
                    self.hold_limit = 0;
                }
            }
            Side::Client => {}
            Side::Backend => self.hold_limit = 0,
        }
    }

    /// `n` bytes of `from` were written to the other side.
    pub fn written(&mut self, from: Side, n: usize) -> Step {
        let half = self.half_mut(from);
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        debug_assert!(n <= half.pending);
        half.pending = half.pending.saturating_sub(n);
        if half.state == HalfState::Draining && half.pending == 0 { self.done(from) } else { Step::Go }
    }

    /// `from` will send no more bytes.
    pub fn read_end(&mut self, from: Side) -> Step {
        // Without a replay, and from a backend that nobody asked anything, an end is an answer like any other.
        if from == Side::Backend && self.holding() && self.failing() && self.replaceable() {
            return self.redial();
        }
        if self.broken(from) {
            // It took no more bytes before (reset), and now all that it had sent is passed on.
            return self.end(reset_by(from));
        }
        let half = self.half_mut(from);
        if half.pending > 0 {
            half.state = HalfState::Draining;
            return Step::Go;
        }
        self.done(from)
    }

    /// All that `from` sent is passed on, and its end is next.
    fn done(&mut self, from: Side) -> Step {
        self.half_mut(from).state = HalfState::Done;
        if self.half(from.peer()).state == HalfState::Broken {
            return self.end(reset_by(from)); // closing tells the end
        }
        Step::Shutdown(from.peer())
    }

    /// What follows the half-close that [`Step::Shutdown`] asks for: `Go`, or the end of the session.
    pub fn after_shutdown(&mut self) -> Step {
        if self.up.finished() && self.down.finished() { self.end(End::Closed) } else { Step::Go }
    }

    /// Reading from `side` failed: it reset the connection.
    pub fn read_failed(&mut self, side: Side) -> Step {
        if side == Side::Backend && self.replaceable() {
            return self.redial();
        }
        self.end(reset_by(side))
    }

    /// Writing to `side` failed. What it sent before its reset is still read and passed on. Then the other side is reset,
    /// unless `side` had `ended` its direction before: who wants no answer any more may well have said all.
    pub fn write_failed(&mut self, side: Side, ended: bool) -> Step {
        if side == Side::Backend && self.replaceable() {
            return self.redial();
        }
        self.half_mut(side).ends |= ended;
        let toward = self.half_mut(side.peer());
        toward.state = HalfState::Broken;
        toward.pending = 0;
        if self.half(side).finished() { self.end(reset_by(side)) } else { Step::Go }
    }

    /// Whether the backend may be given up for another without the client noticing: the backend sent nothing, and the
    /// client sent nothing either or all of it is held.
    #[must_use]
    pub fn replaceable(&self) -> bool {
        self.phase == Phase::Relaying && (self.untouched || self.hold_limit > 0)
    }

    /// What is held is pending again. A client that has ended says so again when it is read again.
    fn redial(&mut self) -> Step {
        self.phase = Phase::Dialling;
        self.up = Half { pending: self.held, ..Half::NEW };
        self.down = Half::NEW;
        Step::Redial
    }

    fn end(&mut self, end: End) -> Step {
        self.phase = Phase::Ended;
        Step::End(end)
    }

    fn half(&self, from: Side) -> Half {
        match from {
            Side::Client => self.up,
            Side::Backend => self.down,
        }
    }

    fn half_mut(&mut self, from: Side) -> &mut Half {
        match from {
            Side::Client => &mut self.up,
            Side::Backend => &mut self.down,
        }
    }
}

fn reset_by(side: Side) -> End {
    match side {
        Side::Client => End::ClientReset,
        Side::Backend => End::BackendReset,
    }
}
