//! Trains of datagrams as QUIC sends them, and the small messages that control them. Each datagram carries its number at
//! both ends and the pattern between, so one that is lost, repeated, out of order, torn or joined is found.

use std::sync::LazyLock;

use crate::pattern;

/// Bytes of a datagram of a train.
pub const DATAGRAM: usize = 1200;
/// Datagrams of a train.
pub const TRAIN: u64 = 16;
/// Trains under way at most, on a flow.
pub const MAX_WINDOW: u64 = 64;
/// Bytes of a control message.
pub const CONTROL: usize = 128;

const MAGIC: &[u8; 8] = b"spl-trn:";
const BODY: usize = 32;
const TAIL: usize = DATAGRAM - 8;
const NAME: usize = 80;

/// Which flow of which run: two runs may use the same ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Drawn at random for each run.
    pub run: u64,
    /// From 0.
    pub number: u64,
}

/// Builds trains, one at a time.
pub struct Writer(Vec<u8>);

impl Writer {
    /// Room for one train.
    pub fn new() -> Self {
        Self(MODEL.repeat(TRAIN as usize))
    }

    /// The datagrams of a train, one behind the other.
    pub fn write(&mut self, flow: Flow, train: u64) -> &[u8] {
        for (number, datagram) in (train * TRAIN..).zip(self.0.chunks_exact_mut(DATAGRAM)) {
            datagram[8..16].copy_from_slice(&flow.run.to_le_bytes());
            datagram[16..24].copy_from_slice(&flow.number.to_le_bytes());
            datagram[24..BODY].copy_from_slice(&number.to_le_bytes());
            datagram[TAIL..].copy_from_slice(&number.to_le_bytes());
        }
        &self.0
    }
}

/// Is this the beginning of a datagram of a train?
fn is_train(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The flow that a datagram of a train says it belongs to.
pub fn flow_of(bytes: &[u8]) -> Option<Flow> {
    if bytes.len() < BODY || !is_train(bytes) {
        return None;
    }
    Some(Flow { run: word(bytes, 8), number: word(bytes, 16) })
}

/// What a reader has found, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whole and in order.
    pub good: u64,
    /// Never came, or came too late.
    pub lost: u64,
    /// Came again, or too late.
    pub moved: u64,
    /// Changed, cut, joined, or of another flow.
    pub torn: u64,
}

impl Tally {
    /// What was found since `earlier`; `None` when that is not earlier.
    pub fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            good: self.good.checked_sub(earlier.good)?,
            lost: self.lost.checked_sub(earlier.lost)?,
            moved: self.moved.checked_sub(earlier.moved)?,
            torn: self.torn.checked_sub(earlier.torn)?,
        })
    }

    /// Names and counts of what is an error.
    pub const fn errors(&self) -> [(&'static str, u64); 3] {
        [("lost-datagram", self.lost), ("moved-datagram", self.moved), ("torn-datagram", self.torn)]
    }
}

/// Verifies the trains of one flow.
pub struct Reader {
    flow: Flow,
    next: u64,
    tally: Tally,
}

/// A datagram without its numbers.
static MODEL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = pattern::bytes(DATAGRAM);
    bytes[..8].copy_from_slice(MAGIC);
    bytes
});

impl Reader {
    /// A flow whose next datagram is the first one of `train`.
    pub fn new(flow: Flow, train: u64) -> Self {
        Self { flow, next: train * TRAIN, tally: Tally::default() }
    }

    /// The flow.
    pub const fn flow(&self) -> Flow {
        self.flow
    }

    /// What was found so far.
    pub const fn tally(&self) -> Tally {
        self.tally
    }

    /// Take one datagram. Returns the train that it ends, if it ends one.
    pub fn take(&mut self, datagram: &[u8]) -> Option<u64> {
        let Some(number) = self.number(datagram) else {
            self.tally.torn += 1;
            return None;
        };
        if number < self.next {
            self.tally.moved += 1;
            return None;
        }
        self.tally.lost += number - self.next;
        self.tally.good += 1;
        self.next = number + 1;
        self.next.is_multiple_of(TRAIN).then_some(number / TRAIN)
    }

    /// The train that comes next, or has begun.
    pub const fn train(&self) -> u64 {
        self.next / TRAIN
    }

    /// Start again at `train`, after those before it were given up.
    pub const fn skip(&mut self, train: u64) {
        self.next = train * TRAIN;
    }

    fn number(&self, datagram: &[u8]) -> Option<u64> {
        if datagram.len() != DATAGRAM || flow_of(datagram)? != self.flow {
            return None;
        }
        let sound = datagram[BODY..TAIL] == MODEL[BODY..TAIL] && datagram[24..BODY] == datagram[TAIL..];
        // no flow lives long enough for the upper half
        sound.then(|| word(datagram, 24)).filter(|number| *number < 1 << 63)
    }
}

/// What a control message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Client to server: send trains from number `train` on, `tally.good` of them under way.
    Get,
    /// Server to client: they come.
    Welcome,
    /// Train `train` has ended; `tally` is of the whole flow.
    Ack,
}

/// A small message about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// What it is about.
    pub kind: Kind,
    /// Of which flow.
    pub flow: Flow,
    /// A train's number.
    pub train: u64,
    /// What the sender has found.
    pub tally: Tally,
}

const KINDS: [(&[u8; 8], Kind); 3] = [(b"spl-get:", Kind::Get), (b"spl-wel:", Kind::Welcome), (b"spl-ack:", Kind::Ack)];

impl Control {
    /// The message, with the name of the server that sends it, or nothing.
    pub fn encode(&self, server: &[u8]) -> [u8; CONTROL] {
        let mut bytes = [b' '; CONTROL];
        for (magic, kind) in KINDS {
            if kind == self.kind {
                bytes[..8].copy_from_slice(magic);
            }
        }
        let Tally { good, lost, moved, torn } = self.tally;
        for (place, number) in
            [self.flow.run, self.flow.number, self.train, good, lost, moved, torn].into_iter().enumerate()
        {
            bytes[8 + place * 8..16 + place * 8].copy_from_slice(&number.to_le_bytes());
        }
        for (place, letter) in bytes[NAME..].iter_mut().zip(server) {
            *place = *letter;
        }
        bytes
    }

    /// The message and the server's name; `None` when it is anything else.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        if bytes.len() != CONTROL {
            return None;
        }
        let (_, kind) = KINDS.into_iter().find(|(magic, _)| bytes.starts_with(*magic))?;
        let tally =
            Tally { good: word(bytes, 32), lost: word(bytes, 40), moved: word(bytes, 48), torn: word(bytes, 56) };
        let flow = Flow { run: word(bytes, 8), number: word(bytes, 16) };
        Some((Self { kind, flow, train: word(bytes, 24), tally }, bytes[NAME..].trim_ascii_end()))
    }
}

fn word(bytes: &[u8], from: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[from..from + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOW: Flow = Flow { run: 1 << 60, number: 7 };

    fn datagrams(trains: u64) -> Vec<Vec<u8>> {
        let mut writer = Writer::new();
        (0..trains)
            .flat_map(|train| writer.write(FLOW, train).chunks(DATAGRAM).map(<[u8]>::to_vec).collect::<Vec<_>>())
            .collect()
    }

    fn read(datagrams: &[Vec<u8>]) -> (Tally, Vec<u64>) {
        let mut reader = Reader::new(FLOW, 0);
        let ended = datagrams.iter().filter_map(|datagram| reader.take(datagram)).collect();
        (reader.tally(), ended)
    }

    #[test]
    fn whole_trains_in_order_are_good() {
        let good = Tally { good: 3 * TRAIN, ..Tally::default() };
        assert_eq!(read(&datagrams(3)), (good, vec![0, 1, 2]));
    }

    /// Without these a proxy that drops or shuffles datagrams would look fast.
    #[test]
    fn what_is_lost_repeated_or_out_of_order_is_found() {
        let all = datagrams(2);
        let good = 2 * TRAIN - 1;
        let mut lost = all.clone();
        lost.remove(3);
        assert_eq!(read(&lost), (Tally { good, lost: 1, ..Tally::default() }, vec![0, 1]));
        let mut repeated = all.clone();
        repeated.insert(4, all[3].clone());
        assert_eq!(read(&repeated).0, Tally { good: good + 1, moved: 1, ..Tally::default() });
        let mut swapped = all.clone();
        swapped.swap(3, 4);
        assert_eq!(read(&swapped).0, Tally { good, lost: 1, moved: 1, torn: 0 });
        let mut cut = all;
        cut.truncate(TRAIN as usize - 1);
        assert_eq!(read(&cut), (Tally { good: TRAIN - 1, ..Tally::default() }, vec![]));
    }

    #[test]
    fn every_byte_and_every_boundary_counts() {
        let one = datagrams(1).swap_remove(0);
        let torn = |bytes: &[u8]| read(&[bytes.to_vec()]).0 == Tally { torn: 1, ..Tally::default() };
        for place in 0..DATAGRAM {
            let mut changed = one.clone();
            changed[place] ^= 1;
            assert!(torn(&changed), "{place}");
        }
        assert!(torn(&one[..DATAGRAM - 1]) && torn(&[&one[..], b"x"].concat()) && torn(&one.repeat(2)) && torn(b""));
    }

    #[test]
    fn a_datagram_of_another_flow_is_not_taken() {
        let mut writer = Writer::new();
        for flow in [Flow { run: 2, ..FLOW }, Flow { number: 8, ..FLOW }] {
            let mut reader = Reader::new(FLOW, 0);
            assert_eq!(reader.take(&writer.write(flow, 0)[..DATAGRAM]), None);
            assert_eq!(reader.tally().torn, 1);
        }
    }

    #[test]
    fn control_messages_survive_a_round_trip() {
        let tally = Tally { good: 1, lost: 2, moved: 3, torn: 4 };
        for (_, kind) in KINDS {
            let control = Control { kind, flow: FLOW, train: 9, tally };
            let bytes = control.encode(b"10.0.0.1:53");
            assert_eq!(Control::decode(&bytes), Some((control, &b"10.0.0.1:53"[..])));
            assert_eq!(Control::decode(&bytes[1..]), None);
        }
        assert_eq!(Control::decode(&datagrams(1)[0]), None);
    }

    #[test]
    fn a_tally_that_goes_back_is_not_believed() {
        let (less, more) = (Tally::default(), Tally { good: 2, ..Tally::default() });
        assert_eq!(more.since(&less), Some(more));
        assert_eq!(less.since(&more), None);
    }
}
