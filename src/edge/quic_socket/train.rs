//! Packets to one client that go to the kernel as one send.

use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// Packets of a transmit with more behind it: quinn 0.11 hands over no more at a time.
const FULL_TRANSMIT: usize = 10;

/// Most bytes of one send: what an IPv4 packet has room for behind its own header and UDP's. IPv6 has more.
const MOST_BYTES: usize = 65_507;

/// Whole packets of one size, to one client, and perhaps a shorter one as the last.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// `None`: there are no packets.
    head: Option<Head>,
    bytes: Vec<u8>,
    is_complete: bool,
}

/// What all packets of a train have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Head {
    destination: SocketAddr,
    source: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    /// Bytes of each packet.
    segment: usize,
}

impl Train {
    /// Whether waiting for more behind this transmit may pay: quinn has handed over all that it does at once.
    pub(super) fn may_begin(transmit: &Transmit<'_>, most_segments: usize) -> bool {
        is_full(transmit) && 2 * FULL_TRANSMIT <= most_segments
    }

    /// Bytes of all packets.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it goes to the same client as this transmit.
    pub(super) fn goes_to(&self, transmit: &Transmit<'_>) -> bool {
        self.head.is_some_and(|head| head.destination == transmit.destination)
    }

    /// Whether the transmit's packets can go along, behind those that are there.
    pub(super) fn takes(&self, transmit: &Transmit<'_>, most_segments: usize) -> bool {
        let Some(head) = self.head else { return false };
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        let alone = transmit.segment_size.is_none();
        let bytes = self.bytes.len() + transmit.contents.len();
        !self.is_complete
            && (segment == head.segment || (alone && segment < head.segment))
            && head == (Head { segment: head.segment, ..Head::of(transmit) })
            && bytes <= MOST_BYTES
            && bytes.div_ceil(head.segment) <= most_segments
    }

    /// Adds packets that it [takes](Self::takes), or that it [may begin](Self::may_begin) with if it is empty.
    pub(super) fn add(&mut self, transmit: &Transmit<'_>) {
        self.head.get_or_insert_with(|| Head::of(transmit));
        self.bytes.extend_from_slice(transmit.contents);
        self.is_complete = !is_full(transmit);
    }

    /// Whether nothing can follow, or nothing will before the connection's next turn.
    pub(super) fn is_complete(&self, most_segments: usize) -> bool {
        self.head.is_some_and(|Head { segment, .. }| {
            let next = self.bytes.len() + segment;
            self.is_complete || next > MOST_BYTES || next / segment > most_segments
        })
    }

    /// All of it, as one send. `None`: there are no packets.
    pub(super) fn transmit(&self) -> Option<Transmit<'_>> {
        let Head { destination, source, ecn, segment } = self.head?;
        let contents = self.bytes.as_slice();
        Some(Transmit { destination, ecn, contents, segment_size: Some(segment), src_ip: source })
    }

    /// Lets go of all packets.
    pub(super) fn clear(&mut self) {
        self.head = None;
        self.bytes.clear();
        self.is_complete = false;
    }
}

impl Head {
    fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn,
            segment: transmit.segment_size.unwrap_or(transmit.contents.len()),
        }
    }
}

/// Whether it is as many whole packets as quinn hands over at once.
fn is_full(transmit: &Transmit<'_>) -> bool {
    transmit.segment_size.is_some_and(|size| {
        let packets = transmit.contents.len() / size.max(1);
        packets >= FULL_TRANSMIT && transmit.contents.len() == packets * size
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: usize = 64;

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn transmit(port: u16, contents: &[u8], segment_size: Option<usize>) -> Transmit<'_> {
        Transmit { destination: client(port), ecn: None, contents, segment_size, src_ip: None }
    }

    /// A train of so many full transmits of packets of 1,200 bytes.
    fn train(transmits: usize) -> Train {
        let mut train = Train::default();
        for _ in 0..transmits {
            let full = transmit(1, &[7; 12_000], Some(1_200));
            assert!(train.takes(&full, SEGMENTS) || train.len() == 0);
            train.add(&full);
        }
        train
    }

    #[test]
    fn only_a_full_transmit_is_worth_waiting_behind() {
        for (bytes, segment, segments, worth) in [
            (12_000, Some(1_200), 64, true),
            (12_000, Some(1_200), 20, true),
            // The kernel would not take two of them together.
            (12_000, Some(1_200), 19, false),
            (12_000, Some(1_200), 1, false),
            (11_999, Some(1_200), 64, false),
            (10_800, Some(1_200), 64, false),
            (1_200, None, 64, false),
            (60, None, 64, false),
            (0, None, 64, false),
        ] {
            let contents = vec![0; bytes];
            let transmit = transmit(1, &contents, segment);
            assert_eq!(Train::may_begin(&transmit, segments), worth, "{bytes} {segment:?}");
        }
    }

    #[test]
    fn it_takes_what_is_of_its_kind_and_a_shorter_end() {
        let train = train(2);
        for (port, bytes, segment, taken, why) in [
            (1, 12_000, Some(1_200), true, "the same once more"),
            (1, 5_000, Some(1_200), true, "an end with a shorter packet"),
            (1, 1_200, None, true, "one packet"),
            (1, 40, None, true, "one short packet"),
            (1, 1_201, None, false, "one longer packet"),
            (1, 6_000, Some(1_000), false, "several shorter packets"),
            (2, 12_000, Some(1_200), false, "another client"),
        ] {
            let contents = vec![0; bytes];
            let transmit = transmit(port, &contents, segment);
            assert_eq!(train.takes(&transmit, SEGMENTS), taken, "{why}");
        }
        let contents = [0; 12_000];
        let marked =
            Transmit { ecn: Some(EcnCodepoint::Ect0), ..transmit(1, &contents, Some(1_200)) };
        assert!(!train.takes(&marked, SEGMENTS), "another mark");
        let source = Some(IpAddr::from([127, 0, 0, 2]));
        let elsewhere = Transmit { src_ip: source, ..transmit(1, &contents, Some(1_200)) };
        assert!(!train.takes(&elsewhere, SEGMENTS), "from another address");
    }

    #[test]
    fn it_is_complete_with_a_shorter_packet_or_the_end_of_what_there_was() {
        for (bytes, segment, complete) in [
            (12_000, Some(1_200), false),
            (6_000, Some(1_200), true),
            (5_999, Some(1_200), true),
            (1_200, None, true),
            (40, None, true),
        ] {
            let mut train = train(1);
            let contents = vec![0; bytes];
            train.add(&transmit(1, &contents, segment));
            assert_eq!(train.is_complete(SEGMENTS), complete, "{bytes} {segment:?}");
            let more = [0; 12_000];
            assert_eq!(train.takes(&transmit(1, &more, Some(1_200)), SEGMENTS), !complete);
        }
    }

    #[test]
    fn it_never_has_more_than_the_kernel_takes() {
        let five = train(5);
        assert!(!five.is_complete(SEGMENTS), "60,000 bytes, 50 segments");
        assert!(five.is_complete(50));
        let sixth = [0; 12_000];
        assert!(!five.takes(&transmit(1, &sixth, Some(1_200)), SEGMENTS), "72,000 bytes");
        assert!(five.takes(&transmit(1, &sixth[..4_800], Some(1_200)), SEGMENTS));
        assert!(!train(4).takes(&transmit(1, &sixth, Some(1_200)), 49));
    }

    #[test]
    fn all_of_it_goes_out_and_nothing_stays() {
        let mut train = train(1);
        train.add(&transmit(1, &[8; 100], None));
        let sent = train.transmit().unwrap();
        assert_eq!((sent.destination, sent.segment_size), (client(1), Some(1_200)));
        assert_eq!(sent.contents, [vec![7; 12_000], vec![8; 100]].concat());
        train.clear();
        assert!(train.len() == 0 && train.transmit().is_none() && !train.is_complete(SEGMENTS));
    }
}
