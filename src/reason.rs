//! Why things ended: the closed lists of words.
//!
//! Each refusal, each ending and each loss has one word, and that word is the log field, the metric
//! label and the reason that the client is told. It also says who ended it. Nothing here decides
//! anything; the rooms that decide pick a word from these lists.

use std::{fmt, time::Duration};

/// Who ended something.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// The client asked for it, or went away, or broke a rule.
    Client,
    /// The backend did it or could not be reached.
    Backend,
    /// The gateway's own limits, deadlines or faults.
    Gateway,
    /// Whoever runs the gateway: drain, kill.
    Operator,
}

impl Side {
    /// The word for logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

/// Declares a closed enum of reasons: variant, word, and what else belongs to the row.
macro_rules! reasons {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, $side:ident; )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name { $( $(#[$variant_meta])* $variant, )* }

        impl $name {
            /// Every reason of this kind, in the order of declaration.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The word for logs, metrics and the client.
            pub const fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }

            /// Who ended it.
            pub const fn side(self) -> Side {
                match self { $( Self::$variant => Side::$side, )* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

reasons! {
    /// Why a session request was not accepted. [`Refusal::status`] is what the client sees.
    Refusal {
        /// The request breaks HTTP's or WebTransport's rules.
        BadRequest = "bad_request", Client;
        /// The request's header section is larger than `limits.header_bytes`.
        HeadersTooLarge = "headers_too_large", Client;
        /// The request's `:protocol` is not one that the gateway speaks.
        UnknownProtocol = "unknown_protocol", Client;
        /// The resource exists but takes no session.
        NotWebTransport = "not_webtransport", Client;
        /// No route matches the path.
        NoRoute = "no_route", Client;
        /// No route is for the host, or those that have the path are for other hosts.
        WrongHost = "wrong_host", Client;
        /// The route does not list the request's origin.
        OriginNotAllowed = "origin_not_allowed", Client;
        /// The request has no origin and the route wants one.
        OriginMissing = "origin_missing", Client;
        /// The route asks the client to show who it is, and it shows nothing.
        CredentialMissing = "credential_missing", Client;
        /// What the client shows is not known, or cannot be one.
        CredentialInvalid = "credential_invalid", Client;
        /// What the client shows was good once.
        CredentialExpired = "credential_expired", Client;
        /// Who the client is may use the gateway, but not this route or path.
        CredentialForbidden = "credential_forbidden", Client;
        /// The route requires an application protocol, and has none of the client's.
        NoCommonProtocol = "no_common_protocol", Client;
        /// What the path says instead of a backend's name is not in the route's table.
        BackendNotListed = "backend_not_listed", Client;
        /// The gateway is at its limit of sessions.
        TooManySessions = "too_many_sessions", Gateway;
        /// The process holds as much memory as it may.
        MemoryShed = "memory_shed", Gateway;
        /// The route is at its limit of sessions.
        RouteFull = "route_full", Gateway;
        /// The client's address has as many sessions as it may.
        ClientSessions = "client_sessions", Client;
        /// The client's address asks for sessions more often than it may.
        ClientSessionRate = "client_session_rate", Client;
        /// The client's SETTINGS did not arrive in time.
        SettingsTimeout = "settings_timeout", Client;
        /// The backend has no endpoint that could take the session.
        BackendUnavailable = "backend_unavailable", Backend;
        /// No endpoint of the backend could be reached.
        BackendUnreachable = "backend_unreachable", Backend;
        /// The backend did not answer in time.
        BackendTimeout = "backend_timeout", Backend;
        /// As many connections to the endpoint as allowed were being made or waited for their turn.
        DialQueueFull = "dial_queue_full", Gateway;
        /// The turn to connect to the endpoint did not come in time.
        DialQueueTimeout = "dial_queue_timeout", Gateway;
        /// The gateway has no local port left towards the backend.
        OutOfPorts = "out_of_ports", Gateway;
        /// The gateway has no file descriptor left for the session's connection.
        OutOfDescriptors = "out_of_descriptors", Gateway;
        /// The gateway has no memory for another socket, or no source address that it may use.
        OutOfResources = "out_of_resources", Gateway;
        /// The gateway is draining.
        Draining = "draining", Operator;
        /// The gateway failed on its own.
        Internal = "internal", Gateway;
    }
}

impl Refusal {
    /// The HTTP status that says it (RFC 9110 section 15; draft-ietf-webtrans-http3-16 section 3.2).
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::SettingsTimeout | Self::NoCommonProtocol => 400,
            Self::CredentialMissing | Self::CredentialInvalid | Self::CredentialExpired => 401,
            Self::OriginNotAllowed | Self::OriginMissing | Self::CredentialForbidden => 403,
            Self::NoRoute | Self::BackendNotListed => 404,
            Self::NotWebTransport => 405,
            Self::WrongHost => 421,
            Self::ClientSessions | Self::ClientSessionRate => 429,
            Self::HeadersTooLarge => 431,
            Self::UnknownProtocol => 501,
            Self::BackendUnreachable => 502,
            Self::TooManySessions | Self::RouteFull | Self::MemoryShed => 503,
            Self::DialQueueFull | Self::DialQueueTimeout => 503,
            Self::OutOfPorts | Self::OutOfDescriptors | Self::OutOfResources => 503,
            Self::BackendUnavailable | Self::Draining => 503,
            Self::BackendTimeout => 504,
            Self::Internal => 500,
        }
    }

    /// What would let the client in (`WWW-Authenticate`, RFC 6750 section 3). No more than that: what is wrong
    /// with a token helps those who forge them.
    pub const fn challenge(self) -> Option<&'static str> {
        match self {
            Self::CredentialMissing => Some("Bearer"),
            Self::CredentialInvalid | Self::CredentialExpired => {
                Some("Bearer error=\"invalid_token\"")
            }
            Self::CredentialForbidden => Some("Bearer error=\"insufficient_scope\""),
            _ => None,
        }
    }

    /// Seconds after which trying again makes sense (`Retry-After`), where it does and where nobody
    /// knows better ([`Refused`]).
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::TooManySessions | Self::RouteFull | Self::MemoryShed => Some(10),
            Self::ClientSessions => Some(10),
            Self::OutOfPorts | Self::OutOfDescriptors | Self::OutOfResources => Some(5),
            Self::BackendUnavailable | Self::Draining => Some(5),
            Self::ClientSessionRate | Self::DialQueueFull | Self::DialQueueTimeout => Some(1),
            _ => None,
        }
    }
}

/// A refusal as one client is told it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// Seconds after which trying again makes sense (`Retry-After`), where it does.
    pub retry_after_seconds: Option<u32>,
}

impl Refused {
    /// Refused until this time has passed, rounded up to what the header can say.
    pub fn for_time(why: Refusal, time: Duration) -> Self {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        Self { why, retry_after_seconds: Some(u32::try_from(seconds).unwrap_or(u32::MAX)) }
    }
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { why, retry_after_seconds: why.retry_after_seconds() }
    }
}

reasons! {
    /// What an active health check of a backend found.
    CheckResult {
        /// All was as it should be.
        Passed = "passed", Backend;
        /// Nobody listens there.
        Refused = "refused", Backend;
        /// No connection or no answer in time.
        Timeout = "timeout", Backend;
        /// An answer, but not the right one.
        WrongAnswer = "wrong_answer", Backend;
        /// The connection broke, or there is no way to it.
        Failed = "failed", Backend;
        /// The gateway had no port or descriptor to ask with. Says nothing about the endpoint.
        OutOfResources = "out_of_resources", Gateway;
    }
}

reasons! {
    /// Why a session ended.
    Ending {
        /// The client closed it: WT_CLOSE_SESSION, or the end of its CONNECT stream.
        ClientClosed = "client_closed", Client;
        /// The client reset its CONNECT stream.
        ClientReset = "client_reset", Client;
        /// The client closed the QUIC connection under the session.
        ConnectionClosed = "connection_closed", Client;
        /// The QUIC connection fell silent or broke.
        ConnectionLost = "connection_lost", Client;
        /// The client broke a rule of the protocol.
        ProtocolError = "protocol_error", Client;
        /// The session's one connection has ended cleanly, both ways.
        BackendFinished = "backend_finished", Backend;
        /// The backend reset the session's one connection or stopped taking bytes.
        BackendReset = "backend_reset", Backend;
        /// The host of the session's one connection stopped answering.
        BackendTimeout = "backend_timeout", Backend;
        /// The client reset or stopped the session's one stream.
        StreamCut = "stream_cut", Client;
        /// One direction of the session's one connection had finished and the other moved nothing for
        /// `half_close_timeout`.
        HalfCloseTimeout = "half_close_timeout", Gateway;
        /// The session had lived for its route's `session_lifetime`.
        SessionLifetime = "session_lifetime", Gateway;
        /// The session had carried nothing for its route's `session_idle`.
        SessionIdle = "session_idle", Gateway;
        /// What the client had shown to be let in was good no longer.
        CredentialExpired = "credential_expired", Client;
        /// Its route is not in the configuration any more, and `reload.end_removed` is on.
        RouteRemoved = "route_removed", Operator;
        /// The drain's grace was over and the session was still there.
        DrainDeadline = "drain_deadline", Operator;
        /// The gateway was told to stop at once.
        Killed = "killed", Operator;
        /// An operator ended it, alone or with others.
        EndedByOperator = "ended_by_operator", Operator;
        /// A fault in the gateway.
        Internal = "internal", Gateway;
    }
}

impl Ending {
    /// The application code with which the gateway closes the session.
    ///
    /// Zero is what a browser shows for a session that was closed without a code, so what the gateway
    /// says begins at 1. The endings that the client or its network brought about are never sent.
    pub const fn code(self) -> u32 {
        match self {
            Self::ClientClosed | Self::ClientReset | Self::ConnectionClosed => 0,
            Self::ConnectionLost | Self::ProtocolError => 0,
            Self::DrainDeadline => 1,
            Self::Killed => 2,
            Self::Internal => 3,
            Self::CredentialExpired => 4,
            Self::SessionLifetime => 5,
            Self::SessionIdle => 6,
            Self::RouteRemoved => 7,
            // Unless the operator gives another one.
            Self::EndedByOperator => 8,
            Self::BackendFinished => 10,
            Self::BackendReset => 11,
            Self::BackendTimeout => 12,
            Self::StreamCut => 13,
            Self::HalfCloseTimeout => 14,
        }
    }

    /// Whether the client is told: it has not ended the session itself, and is not gone.
    pub const fn is_told(self) -> bool {
        self.code() != 0
    }
}

reasons! {
    /// How a bridged stream ended.
    StreamEnd {
        /// Both directions finished cleanly.
        Finished = "finished", Client;
        /// The client reset its half.
        ClientReset = "client_reset", Client;
        /// The client stopped reading; the other direction finished cleanly.
        ClientStopped = "client_stopped", Client;
        /// The session ended, and with it the stream.
        SessionEnded = "session_ended", Client;
        /// The QUIC connection was lost.
        ConnectionLost = "connection_lost", Client;
        /// No endpoint of the backend could be reached.
        BackendUnreachable = "backend_unreachable", Backend;
        /// The backend reset the connection or stopped taking bytes.
        BackendReset = "backend_reset", Backend;
        /// The backend's host stopped answering.
        BackendTimeout = "backend_timeout", Backend;
        /// The backend answered more on a unidirectional stream's connection than is discarded.
        UnwantedReply = "unwanted_reply", Backend;
        /// One direction had finished and the other moved nothing for `half_close_timeout`.
        HalfCloseTimeout = "half_close_timeout", Gateway;
        /// The route does not take streams of this kind.
        Refused = "refused", Gateway;
        /// The session has one connection, and a stream for it already.
        SecondStream = "second_stream", Client;
        /// The session or the gateway is at its limit of streams.
        TooManyStreams = "too_many_streams", Gateway;
        /// The gateway ran out of memory for sockets, or of source addresses that it may use.
        OutOfResources = "out_of_resources", Gateway;
        /// As many connections to the endpoint as allowed were being made or waited for their turn.
        DialQueueFull = "dial_queue_full", Gateway;
        /// The turn to connect to the endpoint did not come in time.
        DialQueueTimeout = "dial_queue_timeout", Gateway;
        /// The gateway ran out of local ports towards the backend.
        OutOfPorts = "out_of_ports", Gateway;
        /// The gateway ran out of file descriptors.
        OutOfDescriptors = "out_of_descriptors", Gateway;
        /// A fault in the gateway.
        Internal = "internal", Gateway;
    }
}

impl StreamEnd {
    /// The application error code with which the gateway resets or stops the client's stream.
    ///
    /// Small numbers, so that they read well in a browser's `WebTransportError.streamErrorCode`;
    /// zero is left out, because browsers show it for streams without an application code. A session
    /// that ended resets its streams with WT_SESSION_GONE instead, which is no application code.
    pub const fn code(self) -> u32 {
        match self {
            Self::Finished | Self::ClientReset | Self::ClientStopped => 0,
            Self::SessionEnded | Self::ConnectionLost => 0,
            Self::BackendUnreachable => 1,
            Self::BackendReset => 2,
            Self::BackendTimeout => 3,
            Self::HalfCloseTimeout => 4,
            Self::Refused => 5,
            Self::TooManyStreams => 6,
            Self::OutOfResources => 7,
            Self::Internal => 8,
            Self::UnwantedReply => 9,
            Self::SecondStream => 10,
            // From 20: what was missing when a backend was to be dialled.
            Self::DialQueueFull => 20,
            Self::DialQueueTimeout => 21,
            Self::OutOfPorts => 22,
            Self::OutOfDescriptors => 23,
        }
    }
}

reasons! {
    /// Why a datagram was lost in the gateway.
    Loss {
        /// Larger than the client's path allows now; or, towards the backend, than a UDP packet is with
        /// what tells the backend of the client.
        Oversize = "oversize", Gateway;
        /// The queue towards the client was full; the oldest went first.
        QueueFull = "queue_full", Gateway;
        /// Older than the route's `datagram_ttl` before it could be sent.
        Expired = "expired", Gateway;
        /// A newer one with the same key came while it waited (`datagram_latest_per_key`).
        Superseded = "superseded", Gateway;
        /// More came than the route's `datagram_rate_up` or `datagram_rate_down` lets through.
        RateLimited = "rate_limited", Gateway;
        /// The client stopped the stream that carried it (`oversize = "stream"`).
        ClientStopped = "client_stopped", Client;
        /// The route has no UDP backend, or there is no way to it.
        NoBackend = "no_backend", Backend;
        /// The gateway has no local port left for the session's socket.
        OutOfPorts = "out_of_ports", Gateway;
        /// The gateway has no file descriptor left for the session's socket.
        OutOfDescriptors = "out_of_descriptors", Gateway;
        /// The gateway has no memory for another socket, or no source address that it may use.
        OutOfResources = "out_of_resources", Gateway;
        /// The kernel's socket buffer towards the backend was full.
        BackendBusy = "backend_busy", Backend;
        /// Nobody listens on the backend's port.
        BackendUnreachable = "backend_unreachable", Backend;
        /// A reply that does not begin with the session's header of the Simple Proxy Protocol.
        WrongHeader = "wrong_header", Backend;
        /// Any other error of the socket.
        SocketError = "socket_error", Backend;
        /// The client sent more than `datagram_receive_buffer` holds until the gateway gets to it.
        ReceiveOverflow = "receive_overflow", Client;
        /// It came before its session, and the session did not come in time or there were too many.
        Early = "early", Client;
        /// It came for a session that has ended, or could not be sent since it had.
        SessionEnded = "session_ended", Client;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_are_label_safe_and_different() {
        fn check(words: Vec<&str>) {
            assert!(words.iter().all(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
            assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
        }
        check(Refusal::ALL.iter().map(|r| r.word()).collect());
        check(Ending::ALL.iter().map(|r| r.word()).collect());
        check(StreamEnd::ALL.iter().map(|r| r.word()).collect());
        check(Loss::ALL.iter().map(|r| r.word()).collect());
    }

    #[test]
    fn who_waits_as_long_as_they_are_told_waits_long_enough() {
        for (millis, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2), (59_500, 60)] {
            let time = Duration::from_millis(millis);
            let refused = Refused::for_time(Refusal::ClientSessionRate, time);
            assert_eq!(refused.retry_after_seconds, Some(seconds), "{time:?}");
        }
    }

    #[test]
    fn codes_the_client_sees_are_different() {
        fn check(codes: Vec<u32>) {
            let codes: Vec<u32> = codes.into_iter().filter(|code| *code != 0).collect();
            assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        }
        check(StreamEnd::ALL.iter().map(|end| end.code()).collect());
        check(Ending::ALL.iter().map(|end| end.code()).collect());
    }
}
