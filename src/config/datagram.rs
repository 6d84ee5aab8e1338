//! What a route does with datagrams that cannot be sent to the client at once.

/// Bytes of a payload that tell what it is about: of the waiting datagrams with the same ones, only the
/// newest is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DatagramKey {
    /// Where the key begins in the payload. Default 0.
    pub offset: u16,
    /// How long it is, 1 to [`Self::MAX_BYTES`].
    pub bytes: u8,
}

impl DatagramKey {
    /// The longest key: a UUID.
    pub const MAX_BYTES: u8 = 16;
}

/// What becomes of a backend's datagram that is larger than the client's path allows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Oversize {
    /// Lost, and counted.
    #[default]
    Drop,
    /// Sent on a unidirectional stream of its own, which is finished after it.
    Stream,
}
