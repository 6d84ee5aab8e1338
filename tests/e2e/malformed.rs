//! What breaks the rules of HTTP/3 and WebTransport: each row of the table has its exact answer.
//!
//! The table is that of `tests/README.md`. Each case is sent whole and byte by byte. Where the fault is a
//! stream's, a session on the same connection must work on; where it is the connection's, a session of
//! another client; and the gateway leaves nothing behind.

use std::fmt::Debug;

use crate::{
    harness::{
        Setup, TcpBackend, TestGateway, echo_tcp, echo_udp, expect_reset, expect_text, soon,
    },
    raw::*,
};

/// A gateway with an echo, and a client whose session must not suffer.
struct Scene {
    gateway: TestGateway,
    bystander: Raw,
    its_session: Stream,
}

impl Scene {
    async fn new() -> Self {
        let (tcp, udp) = (echo_tcp().await, echo_udp().await);
        let limits = "[limits]\nheader_bytes = \"2KiB\"\n[timeouts]\nearly = \"100ms\"";
        let setup = Setup::new().route("/echo", Some(tcp), Some(udp)).tables(limits);
        let gateway = setup.start().await;
        let bystander = Raw::with_settings(&gateway).await;
        let its_session = bystander.session("/echo").await;
        Self { gateway, bystander, its_session }
    }

    /// The other client's session works on, and the gateway can stop.
    async fn ends_unharmed(self) {
        self.bystander.check(self.its_session.id()).await;
        // Gone, so that the gateway need not wait for it when it stops.
        self.bystander.leave();
        self.gateway.shut_down().await;
    }

    async fn rejects(&self, reason: &str, times: usize) {
        let labels = [("reason", reason)];
        let name = "tidegate_session_rejects_total";
        self.gateway.metric_reaches(name, &labels, times as f64).await;
    }
}

/// How the bytes of a case are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    Whole,
    EveryByte,
}

const CUTS: [Cut; 2] = [Cut::Whole, Cut::EveryByte];

/// Writes as told, though the gateway may answer before all is said.
async fn write(send: &mut quinn::SendStream, bytes: &[u8], cut: Cut) {
    if cut == Cut::Whole {
        return write_anyway(send, bytes).await;
    }
    for byte in bytes {
        write_anyway(send, &[*byte]).await;
        // Lets the packet go before the next byte joins it.
        tokio::task::yield_now().await;
    }
}

/// How a case's stream ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Open,
    Fin,
    Reset,
}

fn end(send: &mut quinn::SendStream, how: End) {
    match how {
        End::Open => {}
        End::Fin => finish(send),
        End::Reset => _ = send.reset(0x10c_u32.into()),
    }
}

/// A request for a session with one field put in its place (the same name), or at the end.
fn session_with(name: &str, value: &str) -> Vec<u8> {
    let mut fields = session_fields("/echo");
    match fields.iter().position(|(n, _)| *n == name) {
        Some(at) => fields[at] = (name, value),
        None => fields.push((name, value)),
    }
    headers(&fields)
}

/// A request for a session without one of its fields.
fn session_without(name: &str) -> Vec<u8> {
    let mut fields = session_fields("/echo");
    fields.retain(|(n, _)| *n != name);
    headers(&fields)
}

fn malformed_requests() -> Vec<Vec<u8>> {
    let session = session_fields("/echo");
    let mut requests: Vec<_> = [
        ("connection", "close"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("Origin", "https://a.org"),
        ("x y", "z"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("host", "elsewhere"),
        (":unknown", "x"),
        (":status", "200"),
        (":path", ""),
        (":path", "echo"),
        (":path", "/echo#here"),
        (":authority", ""),
        (":authority", "me@localhost"),
        (":scheme", ""),
        (":method", "GET"),
    ]
    .into_iter()
    .map(|(name, value)| session_with(name, value))
    .collect();
    for name in [":method", ":scheme", ":authority", ":path", ":protocol"] {
        // Without its protocol it is a tunnel's request with scheme and path.
        requests.push(session_without(name));
        let field = *session.iter().find(|(n, _)| *n == name).unwrap();
        requests.push(headers(&[&session[..], &[field]].concat()));
        let mut late = session.clone();
        late.retain(|(n, _)| *n != name);
        requests.push(headers(&[&late[..], &[("x", "y"), field]].concat()));
    }
    // A pseudo-header twice by the static table: `:method: CONNECT`.
    let mut twice = vec![0, 0, 0xcf, 0xcf];
    twice.extend([0xd7, 0x50, 0x01, b'a', 0xc1]);
    requests.push(frame(HEADERS, &twice));
    requests
}

/// S2. Pseudo-headers that are missing, double, late, unknown or empty; names in upper case; fields of
/// connections; bad characters; a host that is not the authority; CONNECT with a path and no protocol.
#[tokio::test]
async fn a_malformed_request_costs_its_stream_alone() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    let requests = malformed_requests();
    for request in &requests {
        for cut in CUTS {
            let mut stream = raw.bidi(&[]).await;
            write(&mut stream.send, request, cut).await;
            assert_eq!(stream.reset_code().await, H3_MESSAGE_ERROR, "{cut:?} {request:x?}");
            assert_eq!(stream.stop_code().await, H3_MESSAGE_ERROR, "{cut:?} {request:x?}");
        }
    }
    scene.rejects("bad_request", 2 * requests.len()).await;
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S7, S22. Requests that are refused get a status, a reason and the end of the stream.
#[tokio::test]
async fn requests_that_cannot_be_served_get_a_status() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    let long = "x".repeat(2100);
    // A section that is small as sent, and large by what each field costs.
    let many: Vec<_> = [&session_fields("/echo")[..], &[("a", "b"); 60]].concat();
    for (request, status, reason) in [
        (session_with(":protocol", "websocket"), 501, "unknown_protocol"),
        (headers(&[(":method", "CONNECT"), (":authority", "a:1")]), 501, "unknown_protocol"),
        (session_with(":path", "/nowhere"), 404, "no_route"),
        (session_with(":path", "/a/../echo"), 400, "bad_request"),
        (session_with(":scheme", "http"), 400, "bad_request"),
        (session_with("x", &long), 431, "headers_too_large"),
        (headers(&many), 431, "headers_too_large"),
        (head(HEADERS, TEBIBYTE), 431, "headers_too_large"),
    ] {
        for cut in CUTS {
            let mut stream = raw.bidi(&[]).await;
            write(&mut stream.send, &request, cut).await;
            let response = stream.response().await;
            assert_eq!((response.status, response.reason()), (status, reason), "{request:x?}");
            assert_eq!(stream.frame().await, None, "no clean end");
            assert_eq!(stream.stop_code().await, H3_NO_ERROR);
        }
    }
    for (reason, times) in
        [("unknown_protocol", 4), ("no_route", 2), ("bad_request", 4), ("headers_too_large", 6)]
    {
        scene.rejects(reason, times).await;
    }
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S22. The same request in every encoding that a client without a dynamic table may choose.
#[tokio::test]
async fn a_request_in_huffmans_code_is_understood() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    for token in ["webtransport", "webtransport-h3"] {
        let mut fields = session_fields("/echo");
        fields[1].1 = token;
        fields.push(("origin", "https://play.example.com"));
        for request in [headers(&fields), huffman_headers(&fields)] {
            for cut in CUTS {
                let mut stream = raw.bidi(&[]).await;
                write(&mut stream.send, &request, cut).await;
                assert_eq!(stream.response().await.status, 200);
                raw.check(stream.id()).await;
            }
        }
    }
    scene.ends_unharmed().await;
}

/// Sends each case on a connection of its own, whole and cut, and expects the connection's end.
async fn each_closes_the_connection<C: Debug>(
    scene: &Scene,
    code: u64,
    cases: &[C],
    send: impl AsyncFn(&Raw, &C, Cut) -> Vec<quinn::SendStream>,
) {
    for case in cases {
        for cut in CUTS {
            let raw = Raw::connect(&scene.gateway).await;
            let _streams = send(&raw, case, cut).await;
            assert_eq!(raw.closed().await, code, "{case:x?} {cut:?}");
        }
    }
}

/// Sends bytes on a stream of the client's own, in one direction.
async fn uni(raw: &Raw, bytes: &[u8], how: End, cut: Cut) -> quinn::SendStream {
    let mut send = soon(raw.quic().open_uni()).await.unwrap();
    write(&mut send, bytes, cut).await;
    end(&mut send, how);
    send
}

/// The control stream: S1, S12, S21 and RFC 9114 sections 6.2.1, 7.2.4 to 7.2.8.
#[tokio::test]
async fn a_fault_on_the_control_stream_closes_the_connection() {
    let scene = Scene::new().await;
    let after_settings =
        |bytes: Vec<u8>| ([varint(CONTROL), usual_settings(), bytes].concat(), End::Open);
    let first = |bytes: Vec<u8>| ([varint(CONTROL), bytes].concat(), End::Open);
    let id = |kind, id| frame(kind, &varint(id));
    let table = [
        (H3_MISSING_SETTINGS, vec![first(id(GOAWAY, 0)), first(frame(0x21, b"grease"))]),
        (
            H3_SETTINGS_ERROR,
            [
                &[(0x02, 1)][..],
                &[(0x03, 1)],
                &[(0x04, 1)],
                &[(0x05, 1)],
                &[(0x08, 2)],
                &[(0x33, 2)],
                &[(0x33, 1), (0x33, 1)],
            ]
            .map(|values| first(settings(values)))
            .to_vec(),
        ),
        (
            H3_FRAME_ERROR,
            vec![
                first(frame(SETTINGS, &[0x33])),
                after_settings(frame(GOAWAY, &[])),
                after_settings(frame(MAX_PUSH_ID, &[1, 1])),
                after_settings(id(WT_BIDI, 0)),
            ],
        ),
        (
            H3_FRAME_UNEXPECTED,
            [usual_settings(), data(b"x"), headers(&get_fields("/")), frame(PUSH_PROMISE, &[0])]
                .into_iter()
                .chain([0x02, 0x06, 0x08, 0x09].map(|kind| frame(kind, b"x")))
                .map(after_settings)
                .collect(),
        ),
        (
            H3_ID_ERROR,
            vec![
                after_settings(id(CANCEL_PUSH, 0)),
                after_settings([id(MAX_PUSH_ID, 4), id(MAX_PUSH_ID, 3)].concat()),
                after_settings([id(GOAWAY, 4), id(GOAWAY, 8)].concat()),
            ],
        ),
        (
            H3_CLOSED_CRITICAL_STREAM,
            vec![
                ([varint(CONTROL), usual_settings()].concat(), End::Fin),
                ([varint(CONTROL), usual_settings()].concat(), End::Reset),
                (varint(QPACK_ENCODER), End::Fin),
                (varint(QPACK_DECODER), End::Fin),
            ],
        ),
        (H3_EXCESSIVE_LOAD, vec![first(head(SETTINGS, TEBIBYTE))]),
        (H3_STREAM_CREATION_ERROR, vec![(varint(PUSH), End::Open)]),
        (QPACK_ENCODER_STREAM_ERROR, vec![(vec![0x02, 0x3f, 0x01], End::Open)]),
        (QPACK_DECODER_STREAM_ERROR, vec![(vec![0x03, 0x80], End::Open)]),
    ];
    for (code, cases) in &table {
        each_closes_the_connection(&scene, *code, cases, async |raw, (bytes, how), cut| {
            // What is reset before it was sent is never seen: the settings must be there first.
            if *how == End::Reset {
                let mut send = uni(raw, bytes, End::Open, cut).await;
                raw.session("/echo").await;
                end(&mut send, *how);
                return vec![send];
            }
            vec![uni(raw, bytes, *how, cut).await]
        })
        .await;
    }
    scene.ends_unharmed().await;
}

/// RFC 9114 section 6.2.1, RFC 9204 section 4.2.
#[tokio::test]
async fn a_second_critical_stream_closes_the_connection() {
    let scene = Scene::new().await;
    let streams = [
        [varint(CONTROL), usual_settings()].concat(),
        varint(QPACK_ENCODER),
        varint(QPACK_DECODER),
    ];
    let code = H3_STREAM_CREATION_ERROR;
    each_closes_the_connection(&scene, code, &streams, async |raw, bytes, cut| {
        vec![uni(raw, bytes, End::Open, cut).await, uni(raw, bytes, End::Open, cut).await]
    })
    .await;
    scene.ends_unharmed().await;
}

/// S12, S18 and RFC 9114 section 4.1: streams of requests.
#[tokio::test]
async fn a_frame_that_no_request_may_have_closes_the_connection() {
    let scene = Scene::new().await;
    let grease = frame(0x21, b"grease");
    let request = headers(&session_fields("/echo"));
    let forbidden =
        [SETTINGS, PUSH_PROMISE, GOAWAY, MAX_PUSH_ID, CANCEL_PUSH, 0x02, 0x06, 0x08, 0x09];
    let table = [
        (
            H3_FRAME_UNEXPECTED,
            [data(b"x"), [grease.clone(), data(b"x")].concat()]
                .into_iter()
                .chain(forbidden.map(|kind| frame(kind, b"")))
                .map(|bytes| (bytes, End::Open))
                .collect::<Vec<_>>(),
        ),
        (
            H3_FRAME_ERROR,
            vec![
                (request[..request.len() - 1].to_vec(), End::Fin),
                (vec![0x01], End::Fin),
                ([grease.clone(), head(0x21, 5)].concat(), End::Fin),
                // A session's stream says so at once or never.
                ([grease, varint(WT_BIDI), varint(0)].concat(), End::Open),
            ],
        ),
        (
            QPACK_DECOMPRESSION_FAILED,
            [&[0x01, 0x00][..], &[0, 0, 0x80], &[0, 0, 0x10], &[0, 0, 0xff, 36], &[0, 0, 0x23]]
                .map(|section| (frame(HEADERS, section), End::Open))
                .to_vec(),
        ),
        (
            H3_ID_ERROR,
            (1..=3).map(|id| ([varint(WT_BIDI), varint(id)].concat(), End::Open)).collect(),
        ),
    ];
    for (code, cases) in &table {
        each_closes_the_connection(&scene, *code, cases, async |raw, (bytes, how), cut| {
            let (mut send, mut recv) = soon(raw.quic().open_bi()).await.unwrap();
            write(&mut send, bytes, cut).await;
            end(&mut send, *how);
            // Only the connection's end ends it.
            assert!(matches!(
                soon(recv.read_chunk(1, true)).await,
                Err(quinn::ReadError::ConnectionLost(_))
            ));
            vec![send]
        })
        .await;
    }
    scene.ends_unharmed().await;
}

/// S12. A unidirectional stream whose session cannot be.
#[tokio::test]
async fn a_unidirectional_stream_of_an_impossible_session_closes_the_connection() {
    let scene = Scene::new().await;
    let streams: Vec<_> = (1..=3).map(|id| [varint(WT_UNI), varint(id)].concat()).collect();
    each_closes_the_connection(&scene, H3_ID_ERROR, &streams, async |raw, bytes, cut| {
        vec![uni(raw, bytes, End::Open, cut).await]
    })
    .await;
    scene.ends_unharmed().await;
}

/// The frames of a session's own stream, once it stands (RFC 9114 sections 4.4 and 7.1).
#[tokio::test]
async fn a_wrong_frame_on_a_sessions_stream_closes_the_connection() {
    let scene = Scene::new().await;
    let table = [
        (H3_FRAME_UNEXPECTED, headers(&[("x", "y")]), End::Open),
        (H3_FRAME_UNEXPECTED, headers(&get_fields("/")), End::Open),
        (H3_FRAME_UNEXPECTED, frame(SETTINGS, b""), End::Open),
        (H3_FRAME_ERROR, [varint(WT_BIDI), varint(0)].concat(), End::Open),
        (H3_FRAME_ERROR, head(DATA, 9), End::Fin),
        (H3_FRAME_ERROR, vec![0x40], End::Fin),
    ];
    let mut ended = 0.0;
    for (code, bytes, how) in &table {
        for cut in CUTS {
            let raw = Raw::with_settings(&scene.gateway).await;
            let mut session = raw.session("/echo").await;
            write(&mut session.send, bytes, cut).await;
            end(&mut session.send, *how);
            assert_eq!(raw.closed().await, *code, "{bytes:x?} {cut:?}");
            ended += 1.0;
            scene.gateway.session_ends("protocol_error", ended).await;
        }
    }
    scene.ends_unharmed().await;
}

/// S14, S15. Capsules that break a rule end their session, and no other on the connection.
#[tokio::test]
async fn a_malformed_capsule_costs_its_session_alone() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let other = raw.session("/echo").await;
    let cases = [
        // Close: no code, a reason too long, a reason that is no text.
        (capsule(CLOSE_SESSION, b"abc"), End::Open),
        (close_session(1, &[b'x'; 1025]), End::Open),
        (close_session(1, b"\xff\xfe"), End::Open),
        (data(&head(CLOSE_SESSION, TEBIBYTE)), End::Open),
        (capsule(DRAIN_SESSION, b"x"), End::Open),
        (data(&head(DRAIN_SESSION, TEBIBYTE)), End::Open),
        // The end within a capsule: its type, its length, its body, known or not.
        (data(&[0x68]), End::Fin),
        (data(&varint(CLOSE_SESSION)), End::Fin),
        (data(&head(CLOSE_SESSION, 10)), End::Fin),
        (data(&head(0x29 * 7 + 0x17, 10)), End::Fin),
        // Something after the close: in the same frame, in the next.
        (
            data(&[frame(CLOSE_SESSION, b"\0\0\0\x01"), frame(DRAIN_SESSION, b"")].concat()),
            End::Open,
        ),
        ([close_session(1, b""), data(b"x")].concat(), End::Fin),
    ];
    for (case, (bytes, how)) in cases.iter().enumerate() {
        for cut in CUTS {
            let mut session = raw.session("/echo").await;
            let mut stream = raw.stream_of(session.id(), b"").await;
            write(&mut session.send, bytes, cut).await;
            end(&mut session.send, *how);
            // Once the gateway has read a close alone it has answered it, and its FIN may be quicker than
            // a reset; then it can only say stop.
            let reads_close_alone =
                case == cases.len() - 1 || (case == cases.len() - 2 && cut == Cut::EveryByte);
            if !reads_close_alone {
                assert_eq!(session.reset_code().await, H3_MESSAGE_ERROR, "{bytes:x?} {cut:?}");
            }
            if *how == End::Open {
                assert_eq!(session.stop_code().await, H3_MESSAGE_ERROR, "{bytes:x?} {cut:?}");
            }
            assert_eq!(stream.reset_code().await, WT_SESSION_GONE);
        }
    }
    raw.check(other.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S15. The gateway has answered a close with its FIN; what comes then is still an error.
#[tokio::test]
async fn bytes_after_the_answer_to_a_close_are_stopped() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let other = raw.session("/echo").await;
    let mut session = raw.session("/echo").await;
    session.write(&close_session(7, b"bye")).await;
    assert_eq!(session.frame().await, None);
    session.write(&data(b"x")).await;
    assert_eq!(session.stop_code().await, H3_MESSAGE_ERROR);
    scene.gateway.session_ends("client_closed", 1.0).await;
    raw.check(other.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S10, S15, S21. What is allowed though it is odd: unknown capsules and frames, capsules across frames,
/// capsules before the answer, a drain, the longest reason, an end without a word.
#[tokio::test]
async fn odd_but_sound_capsules_are_taken() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let other = raw.session("/echo").await;
    let close = frame(CLOSE_SESSION, &[&[0, 0, 0, 9][..], &[b'x'; 1024]].concat());
    let unknown = frame(0x29 * 7 + 0x17, &[7; 500]);
    let cases = [
        vec![],
        unknown.clone(),
        frame(0x00, b"a datagram that no client sends so"),
        [frame(DRAIN_SESSION, b""), close.clone()].concat(),
        [unknown, close].concat(),
    ];
    for (n, capsules) in cases.iter().enumerate() {
        for size in [1, 7, 5000] {
            let mut bytes = headers(&session_fields("/echo"));
            for piece in capsules.chunks(size) {
                bytes.extend([data(b""), frame(0x21, b"between"), data(piece)].concat());
            }
            let mut session = raw.bidi(&bytes).await;
            assert_eq!(session.response().await.status, 200);
            finish(&mut session.send);
            assert_eq!(session.frame().await, None, "{n} {size}");
        }
    }
    scene.gateway.session_ends("client_closed", 15.0).await;
    raw.check(other.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S21. A stream that ends before it has said what it is goes without a word.
#[tokio::test]
async fn a_stream_that_ends_within_its_head_is_dropped() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    for bytes in [&[][..], &[0x40], &[0x40, 0x41], &[0x40, 0x41, 0x40]] {
        for cut in CUTS {
            for how in [End::Fin, End::Reset] {
                let (mut send, recv) = raw.quic().open_bi().await.unwrap();
                write(&mut send, bytes, cut).await;
                end(&mut send, how);
                let code = expect_reset_code(recv).await;
                assert_eq!(code, H3_REQUEST_INCOMPLETE, "{bytes:x?} {how:?}");
                uni(&raw, bytes, how, cut).await;
            }
        }
    }
    // A whole frame, but no request.
    let mut stream = raw.bidi(&frame(0x21, b"grease")).await;
    finish(&mut stream.send);
    assert_eq!(stream.reset_code().await, H3_REQUEST_INCOMPLETE);
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

async fn expect_reset_code(mut recv: quinn::RecvStream) -> u64 {
    match soon(recv.read_chunk(1, true)).await {
        Err(quinn::ReadError::Reset(code)) => code.into_inner(),
        other => panic!("{other:?}"),
    }
}

/// S21. Streams of unknown types are not wanted, and that is all.
#[tokio::test]
async fn a_stream_of_unknown_type_is_stopped() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    for kind in [0x21, 0x41, varint_max()] {
        for cut in CUTS {
            let send = uni(&raw, &[varint(kind), vec![7; 100]].concat(), End::Open, cut).await;
            assert_eq!(stop_code(&send).await, H3_STREAM_CREATION_ERROR);
        }
    }
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

const fn varint_max() -> u64 {
    (1 << 62) - 1
}

/// S11, S13. A stream that names a request which is no session is rejected; one that names an ended
/// session is told so.
#[tokio::test]
async fn streams_of_what_is_no_session_are_rejected() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    for request in [headers(&get_fields("/")), headers(&session_fields("/nowhere"))] {
        let mut answered = raw.bidi(&request).await;
        let id = answered.id();
        // It may come before the answer or after it.
        let mut early = raw.stream_of(id, b"early").await;
        answered.response().await;
        finish(&mut answered.send);
        assert_eq!(early.reset_code().await, WT_BUFFERED_STREAM_REJECTED);
        assert_eq!(early.stop_code().await, WT_BUFFERED_STREAM_REJECTED);
        let mut late = raw.stream_of(id, b"late").await;
        assert_eq!(late.reset_code().await, WT_BUFFERED_STREAM_REJECTED);
        let send = raw.uni(&[varint(WT_UNI), varint(id), b"late".to_vec()].concat()).await;
        assert_eq!(stop_code(&send).await, WT_BUFFERED_STREAM_REJECTED);
    }
    let mut over = raw.session("/echo").await;
    finish(&mut over.send);
    assert_eq!(over.frame().await, None);
    let mut late = raw.stream_of(over.id(), b"late").await;
    assert_eq!(late.reset_code().await, WT_SESSION_GONE);
    assert_eq!(late.stop_code().await, WT_SESSION_GONE);
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S12 and RFC 9297 section 2.1.
#[tokio::test]
async fn a_datagram_without_a_proper_id_closes_the_connection() {
    let scene = Scene::new().await;
    for bytes in [&[][..], &[0x40], &[0xd0, 0, 0, 0, 0, 0, 0, 0], &[0xff; 20]] {
        let raw = Raw::with_settings(&scene.gateway).await;
        let _session = raw.session("/echo").await;
        raw.datagram(bytes);
        assert_eq!(raw.closed().await, H3_DATAGRAM_ERROR, "{bytes:x?}");
    }
    scene.ends_unharmed().await;
}

/// S11. Datagrams without a session are held for a moment or dropped, and each is counted.
#[tokio::test]
async fn datagrams_without_a_session_are_dropped_and_counted() {
    let scene = Scene::new().await;
    let raw = Raw::with_settings(&scene.gateway).await;
    let session = raw.session("/echo").await;
    let mut over = raw.session("/echo").await;
    finish(&mut over.send);
    assert_eq!(over.frame().await, None);
    // One for an ended session, one for a session that nobody asks for.
    raw.datagram(&[&varint(over.id() / 4)[..], b"late"].concat());
    raw.datagram(&[&varint(60)[..], b"early"].concat());
    for reason in ["session_ended", "early"] {
        let labels = [("route", "_none"), ("reason", reason)];
        scene.gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 1.0).await;
    }
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// What waits for a session is lost with the connection, and not without a word.
#[tokio::test]
async fn datagrams_that_wait_when_the_connection_ends_are_counted() {
    let gateway = TestGateway::echo().await;
    let raw = Raw::with_settings(&gateway).await;
    let session = raw.session("/echo").await;
    for _ in 0..3 {
        raw.datagram(&[&varint(60)[..], b"early"].concat());
    }
    // They come in order: with its answer those before it are there.
    raw.check(session.id()).await;
    raw.leave();
    let labels = [("route", "_none"), ("reason", "early")];
    gateway.metric_reaches("tidegate_quic_connections", &[], 0.0).await;
    gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 3.0).await;
    gateway.shut_down().await;
}

/// S17, G1. A code that carries none of an application's is passed on as a reset without one.
#[tokio::test]
async fn a_foreign_reset_code_is_a_reset_all_the_same() {
    let backend = TcpBackend::bind().await;
    let gateway = TestGateway::with_tcp("/x", &backend).await;
    let raw = Raw::with_settings(&gateway).await;
    let session = raw.session("/x").await;
    for code in [0x10c_u64, 0, 0x52e4_a40f_a8f9, varint_max()] {
        let code = quinn::VarInt::from_u64(code).unwrap();
        let mut stream = raw.stream_of(session.id(), b"half of it").await;
        let mut connection = backend.accept().await;
        expect_text(&mut connection, b"half of it").await;
        stream.send.reset(code).unwrap();
        expect_reset(&mut connection).await;
        stream.recv.stop(code).unwrap();
    }
    gateway.stream_ends("client_reset", 4.0).await;
    raw.leave();
    gateway.shut_down().await;
}

/// S3. A request that comes before the client's settings waits for them.
#[tokio::test]
async fn a_request_waits_for_the_settings() {
    let scene = Scene::new().await;
    let raw = Raw::connect(&scene.gateway).await;
    let mut request = raw.bidi(&headers(&session_fields("/echo"))).await;
    // An ordinary request needs no settings; its answer shows that the other has had its chance.
    let mut other = raw.bidi(&headers(&get_fields("/"))).await;
    assert_eq!(other.response().await.status, 200);
    let _control = raw.uni(&[varint(CONTROL), usual_settings()].concat()).await;
    assert_eq!(request.response().await.status, 200);
    raw.check(request.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}

/// S1. The gateway's settings come first on its one control stream, without waiting for the client's.
#[tokio::test]
async fn the_gateway_says_its_settings_first() {
    let scene = Scene::new().await;
    let raw = Raw::connect(&scene.gateway).await;
    let mut control = raw.accept_uni().await;
    let mut bytes = Vec::new();
    let payload = loop {
        bytes.extend(soon(control.read_chunk(4096, true)).await.unwrap().unwrap().bytes);
        assert_eq!(bytes[..2], [0x00, 0x04], "a control stream that begins with SETTINGS");
        if let Some((length, n)) = take_varint(&bytes[2..])
            && let Some(payload) = bytes.get(2 + n..2 + n + usize::try_from(length).unwrap())
        {
            break payload.to_vec();
        }
    };
    let mut said = std::collections::BTreeMap::new();
    let mut rest = &payload[..];
    while !rest.is_empty() {
        let (id, n) = take_varint(rest).unwrap();
        let (value, m) = take_varint(&rest[n..]).unwrap();
        assert_eq!(said.insert(id, value), None, "a setting twice");
        rest = &rest[n + m..];
    }
    for (id, value) in
        [(0x08, 1), (0x33, 1), (0xff_d277, 1), (0x2b60_3742, 1), (0x2c7c_f000, 1), (0x06, 2048)]
    {
        assert_eq!(said.get(&id), Some(&value), "{id:#x}");
    }
    for id in [0xc671_706a, 0x14e9_cd29, 0x2b61, 0x2b64, 0x2b65] {
        assert!(said.get(&id).is_some_and(|value| *value > 0), "{id:#x}");
    }
    scene.ends_unharmed().await;
}

/// S3. A client that never says its settings gets no session, and an answer.
#[tokio::test]
async fn a_request_without_settings_is_refused_in_time() {
    let setup = Setup::new().route("/echo", Some(echo_tcp().await), None);
    let gateway = setup.tables("[timeouts]\nrequest = \"100ms\"").start().await;
    let raw = Raw::connect(&gateway).await;
    let mut request = raw.bidi(&headers(&session_fields("/echo"))).await;
    let response = request.response().await;
    assert_eq!((response.status, response.reason()), (400, "settings_timeout"));
    // Nothing else is spoilt: they may come later.
    let _control = raw.uni(&[varint(CONTROL), usual_settings()].concat()).await;
    raw.session("/echo").await;
    raw.leave();
    gateway.shut_down().await;
}

/// S5. A session without datagrams is one all the same; what the backend sends is counted as lost.
#[tokio::test]
async fn a_client_that_takes_no_datagrams_gets_none() {
    let scene = Scene::new().await;
    let raw = Raw::connect(&scene.gateway).await;
    let _control =
        raw.uni(&[varint(CONTROL), settings(&[(0x2b60_3742, 1), (0x33, 0)])].concat()).await;
    let session = raw.session("/echo").await;
    raw.datagram(&[&varint(session.id() / 4)[..], b"echo me"].concat());
    let labels = [("direction", "backend_to_client"), ("route", "echo")];
    scene.gateway.metric_reaches("tidegate_datagram_drops_total", &labels, 1.0).await;
    let mut stream = raw.stream_of(session.id(), b"alive").await;
    stream.send.finish().unwrap();
    assert_eq!(soon(stream.recv.read_to_end(10)).await.unwrap(), b"alive");
    raw.leave();
    scene.ends_unharmed().await;
}

/// S20. A client's GOAWAY says that it takes no pushes, of which there are none.
#[tokio::test]
async fn a_goaway_of_the_clients_stops_nothing() {
    let scene = Scene::new().await;
    let raw = Raw::connect(&scene.gateway).await;
    let control = [varint(CONTROL), usual_settings(), frame(GOAWAY, &varint(0))].concat();
    let _control = raw.uni(&control).await;
    let session = raw.session("/echo").await;
    raw.check(session.id()).await;
    raw.leave();
    scene.ends_unharmed().await;
}
