//! What leaves: datagrams, trains of equal datagrams, and which of them one call of the kernel can take together.

use std::net::SocketAddr;

use super::LARGEST;

/// Datagrams that any kernel with trains sends in one call.
const LONGEST_TRAIN: usize = 64;

/// A datagram, or a train of datagrams, on its way.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The payload; of a train, that of all datagrams.
    pub bytes: &'a [u8],
    /// Where to; none: where the socket is connected to.
    pub to: Option<SocketAddr>,
    /// The source address, of this machine's; the socket's port is the source port. None: the socket's own.
    pub from: Option<SocketAddr>,
    /// The size of each datagram of a train, of which the last may be shorter; 0: a single datagram.
    pub segment: u16,
    /// It may leave joined with equal datagrams before and after it. False: every datagram leaves by itself, also those of
    /// a train, because the kernel has refused a train on this way.
    pub joins: bool,
}

impl<'a> Outgoing<'a> {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        if self.segment == 0 { 1 } else { self.bytes.len().div_ceil(self.segment.into()) }
    }

    /// One datagram of a train for itself; `index` is below [`datagrams`](Self::datagrams).
    #[must_use]
    pub fn part(self, index: usize) -> Self {
        let size = usize::from(self.segment);
        if size == 0 {
            return self;
        }
        let bytes = self.bytes.get(index * size..).unwrap_or_default();
        Self { bytes: &bytes[..size.min(bytes.len())], segment: 0, ..self }
    }

    /// Whether it is several datagrams, each of which must leave by itself.
    pub(super) fn goes_apart(&self) -> bool {
        !self.joins && self.segment > 0
    }
}

/// Messages that leave as one: datagrams of one size, of which the last may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train {
    to: Option<SocketAddr>,
    from: Option<SocketAddr>,
    /// Bytes of each datagram.
    size: usize,
    bytes: usize,
    /// Another message may follow.
    open: bool,
}

impl Train {
    /// A train that begins with `message`.
    pub(super) fn begin(message: &Outgoing<'_>) -> Self {
        let bytes = message.bytes.len();
        let size = if message.segment == 0 { bytes } else { message.segment.into() };
        let open = message.joins && size > 0 && bytes.is_multiple_of(size);
        Self { to: message.to, from: message.from, size, bytes, open }
    }

    /// Add `message` at the end. False: it must leave by itself, or begin another train.
    pub(super) fn take(&mut self, message: &Outgoing<'_>) -> bool {
        let length = message.bytes.len();
        let whole = self.bytes + length;
        let fits = match usize::from(message.segment) {
            0 => 0 < length && length <= self.size,
            segment => segment == self.size,
        };
        let fits = fits && whole <= LARGEST && whole <= LONGEST_TRAIN * self.size;
        if !(self.open && message.joins && fits && (message.to, message.from) == (self.to, self.from)) {
            return false;
        }
        (self.bytes, self.open) = (whole, length.is_multiple_of(self.size));
        true
    }

    /// Where it goes.
    pub(super) fn to(&self) -> Option<SocketAddr> {
        self.to
    }

    /// The source address that was asked for.
    pub(super) fn from(&self) -> Option<SocketAddr> {
        self.from
    }

    /// What to tell the kernel: the size of the datagrams, 0 for a single one.
    pub(super) fn segment(&self) -> u16 {
        if self.bytes > self.size { self.size as u16 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    static ROOM: [u8; 70_000] = [0; 70_000];

    fn message(length: usize, segment: u16) -> Outgoing<'static> {
        Outgoing { bytes: &ROOM[..length], to: None, from: None, segment, joins: true }
    }

    /// The datagrams that the kernel makes of `bytes`.
    fn cut(bytes: usize, segment: usize) -> Vec<usize> {
        if segment == 0 {
            return vec![bytes];
        }
        (0..bytes.div_ceil(segment)).map(|index| segment.min(bytes - index * segment)).collect()
    }

    /// A train with a member too many is refused as a whole, and each one that is left out costs a call.
    #[test]
    fn as_many_join_as_the_kernel_takes() {
        for (size, most) in [(1, 64), (64, 64), (1_023, 64), (1_200, 54), (32_000, 2), (LARGEST, 1)] {
            let mut train = Train::begin(&message(size, 0));
            let joined = (1..100).take_while(|_| train.take(&message(size, 0))).count() + 1;
            assert_eq!((joined, train.segment()), (most, if most > 1 { size as u16 } else { 0 }), "{size}");
        }
        let mut trains = Train::begin(&message(16 * 1_200, 1_200));
        assert!(trains.take(&message(16 * 1_200, 1_200)) && trains.take(&message(16 * 1_200, 1_200)));
        assert!(!trains.take(&message(16 * 1_200, 1_200)));
        assert!(trains.take(&message(7, 0)), "a shorter one is the last");
        assert!(!trains.take(&message(7, 0)));
    }

    /// Joined datagrams of two clients would all reach one of them.
    #[test]
    fn other_addresses_do_not_join() {
        let one = Outgoing { to: Some(([127, 0, 0, 1], 1).into()), ..message(9, 0) };
        let other = Outgoing { to: Some(([127, 0, 0, 1], 2).into()), ..one };
        let (by, apart) = (Outgoing { from: other.to, ..one }, Outgoing { joins: false, ..one });
        let mut train = Train::begin(&one);
        assert!(!train.take(&other) && !train.take(&by) && !train.take(&apart) && train.take(&one));
        assert!(!Train::begin(&apart).take(&one));
    }

    proptest! {
        /// However messages are joined, the datagrams that leave are those that came, in their order (C-09).
        #[test]
        fn boundaries_are_kept(shapes in vec((prop_oneof![0..4_usize, 1_199..1_202_usize], 1..55_usize), 1..40)) {
            let messages: Vec<_> = shapes.iter().map(|&(size, count)| match (size, count) {
                (0, _) => message(0, 0),
                (_, 1) => message(size, 0),
                (_, count) => message(size * count - size / 2, size as u16),
            }).collect();
            let wanted: Vec<_> = messages.iter().flat_map(|m| cut(m.bytes.len(), m.segment.into())).collect();
            let mut left = Vec::new();
            let mut train = Train::begin(&messages[0]);
            for next in &messages[1..] {
                if !train.take(next) {
                    left.extend(cut(train.bytes, train.segment().into()));
                    train = Train::begin(next);
                }
            }
            left.extend(cut(train.bytes, train.segment().into()));
            prop_assert_eq!(left, wanted);
        }
    }
}
