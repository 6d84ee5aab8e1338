"""aioquic against a gateway that `tidegate dev` runs: raw HTTP/3, sessions pooled on one connection.

Usage: aioquic_client.py FACTS, where FACTS is the file with the line of `tidegate dev --print json`.
Each case prints one line; the last line counts them; the exit code is 1 if one failed.
"""

import asyncio
import hashlib
import json
import ssl
import struct
import sys
from collections import defaultdict
from functools import partial
from urllib.parse import urlsplit
from urllib.request import urlopen

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StopSendingReceived, StreamDataReceived, StreamReset

PATIENCE = 10
WT_SESSION_GONE = 0x170D7B68
FIRST_APPLICATION_CODE = 0x52E4A40FA8DB


# What clients of a generation say of it, and nothing of the others.
DRAFT_02 = {0x33: 1, 0xFFD277: 1, 0x2B603742: 1}
DRAFT_07 = {0x08: 1, 0x33: 1, 0xC671706A: 1}


class H3(H3Connection):
    """aioquic's HTTP/3 with other settings than its own."""

    def __init__(self, quic, settings):
        self.wanted_settings = settings
        super().__init__(quic, enable_webtransport=True)

    def _get_local_settings(self):
        settings = super()._get_local_settings()
        if self.wanted_settings is None:
            return settings
        qpack = {key: settings[key] for key in (0x01, 0x07)}
        return qpack | self.wanted_settings


class Client(QuicConnectionProtocol):
    """Keeps what each stream has brought, and wakes whoever waits for it."""

    def __init__(self, *args, settings=None, metrics=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.h3 = H3(self._quic, settings)
        self.metrics = metrics
        self.opened = set()
        self.headers = {}
        self.data = defaultdict(bytes)
        self.ended = set()
        self.resets = {}
        self.stops = {}
        self.datagrams = defaultdict(list)
        self.changed = asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, StopSendingReceived):
            self.stops[event.stream_id] = event.error_code
        if isinstance(event, StreamDataReceived) and event.stream_id in self.opened:
            # aioquic takes what comes back on a stream that it opened itself for HTTP/3 frames.
            self.data[event.stream_id] += event.data
            if event.end_stream:
                self.ended.add(event.stream_id)
            self.changed.set()
            return
        for seen in self.h3.handle_event(event):
            if isinstance(seen, HeadersReceived):
                self.headers[seen.stream_id] = dict(seen.headers)
                self._note_end(seen)
            elif isinstance(seen, DataReceived):
                self.data[seen.stream_id] += seen.data
                self._note_end(seen)
            elif isinstance(seen, DatagramReceived):
                self.datagrams[seen.stream_id].append(seen.data)
        self.changed.set()

    def _note_end(self, seen):
        if seen.stream_ended:
            self.ended.add(seen.stream_id)

    async def until(self, holds):
        """Waits until something holds."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    async def request(self, method, path, authority, protocol=None, more=()):
        """Makes a request; the stream's id and the status."""
        stream = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", method),
            (b":scheme", b"https"),
            (b":authority", authority.encode()),
            (b":path", path.encode()),
        ]
        if protocol is not None:
            headers.append((b":protocol", protocol))
        headers.extend(more)
        self.h3.send_headers(stream, headers, end_stream=protocol is None)
        self.transmit()
        await self.until(lambda: stream in self.headers)
        return stream, int(self.headers[stream][b":status"])

    async def session(self, path, authority, protocol=b"webtransport", more=()):
        stream, status = await self.request(b"CONNECT", path, authority, protocol, more)
        assert status == 200, f"{path} answered {status}"
        return stream

    async def sessions_of(self, dialect):
        """How many sessions the gateway has counted for a generation."""
        read = await asyncio.to_thread(lambda: urlopen(self.metrics, timeout=PATIENCE).read().decode())
        lines = [line for line in read.splitlines() if line.startswith("tidegate_sessions_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if f'dialect="{dialect}"' in line)

    def open(self, session, data, end=True, uni=False):
        stream = self.h3.create_webtransport_stream(session, is_unidirectional=uni)
        self.opened.add(stream)
        self._quic.send_stream_data(stream, data, end_stream=end)
        self.transmit()
        return stream

    def capsule(self, session, kind, body, end=False):
        capsule = encode_uint_var(kind) + encode_uint_var(len(body)) + body
        self.h3.send_data(session, capsule, end_stream=end)
        self.transmit()


async def echoes_streams_and_datagrams(client, authority):
    await echoes(client, await client.session("/echo", authority))


async def echoes(client, session):
    data = bytes(range(256)) * 4096
    stream = client.open(session, data)
    await client.until(lambda: stream in client.ended)
    assert client.data[stream] == data
    client.h3.send_datagram(session, b"a datagram")
    client.transmit()
    await client.until(lambda: client.datagrams[session])
    assert client.datagrams[session] == [b"a datagram"]


async def pools_sessions_on_one_connection(client, authority):
    sessions = [await client.session("/echo", authority) for _ in range(4)]
    streams = [client.open(session, b"of %d" % session) for session in sessions]
    for session, stream in zip(sessions, streams):
        await client.until(lambda: stream in client.ended)
        assert client.data[stream] == b"of %d" % session
    # The end of one leaves the others alone, and ends its own streams.
    held = client.open(sessions[0], b"held", end=False)
    await client.until(lambda: client.data[held] == b"held")
    client.capsule(sessions[0], 0x2843, struct.pack(">I", 7) + b"bye", end=True)
    await client.until(lambda: sessions[0] in client.ended and held in client.resets)
    assert client.resets[held] == WT_SESSION_GONE
    again = client.open(sessions[1], b"still here")
    await client.until(lambda: again in client.ended)
    assert client.data[again] == b"still here"


async def answers_ordinary_requests_beside_sessions(client, authority):
    await client.session("/echo", authority)
    stream, status = await client.request(b"GET", "/", authority)
    await client.until(lambda: stream in client.ended)
    assert status == 200 and client.data[stream].startswith(b"tidegate"), client.data[stream]


async def refuses_with_a_status_and_a_reason(client, authority):
    for path, protocol, status, reason in [
        ("/nowhere", b"webtransport", 404, b"no_route"),
        ("/echo", b"websocket", 501, b"unknown_protocol"),
    ]:
        stream, seen = await client.request(b"CONNECT", path, authority, protocol)
        assert seen == status, f"{path} as {protocol} answered {seen}"
        assert client.headers[stream][b"tidegate-reason"] == reason


async def speaks_the_newer_token(client, authority):
    session = await client.session("/echo", authority, b"webtransport-h3")
    stream = client.open(session, b"newer")
    await client.until(lambda: stream in client.ended)
    assert client.data[stream] == b"newer"


async def is_served_as_draft(client, authority, draft, more=()):
    before = await client.sessions_of(draft)
    session = await client.session("/echo", authority, more=more)
    await echoes(client, session)
    assert await client.sessions_of(draft) == before + 1
    return client.headers[session]


async def speaks_draft_02_alone(client, authority):
    more = [(b"sec-webtransport-http3-draft02", b"1")]
    answer = await is_served_as_draft(client, authority, "draft02", more)
    assert answer[b"sec-webtransport-http3-draft"] == b"draft02", answer


async def speaks_draft_07_alone(client, authority):
    answer = await is_served_as_draft(client, authority, "draft07")
    assert b"sec-webtransport-http3-draft" not in answer, answer


async def skips_capsules_it_does_not_know(client, authority):
    session = await client.session("/echo", authority)
    client.capsule(session, 0x29 * 1000 + 0x17, b"x" * 100_000)
    stream = client.open(session, b"after the grease")
    await client.until(lambda: stream in client.ended)
    assert client.data[stream] == b"after the grease"


async def maps_the_codes_of_resets(client, authority):
    session = await client.session("/udp", authority)
    stream = client.open(session, b"no streams here", end=False)
    await client.until(lambda: stream in client.resets and stream in client.stops)
    # 5: the route refuses streams.
    assert client.resets[stream] == FIRST_APPLICATION_CODE + 5, hex(client.resets[stream])
    assert client.stops[stream] == FIRST_APPLICATION_CODE + 5


CASES = [
    echoes_streams_and_datagrams,
    pools_sessions_on_one_connection,
    answers_ordinary_requests_beside_sessions,
    refuses_with_a_status_and_a_reason,
    speaks_the_newer_token,
    speaks_draft_02_alone,
    speaks_draft_07_alone,
    skips_capsules_it_does_not_know,
    maps_the_codes_of_resets,
]


# What the cases say in their settings; the others say what aioquic does.
SETTINGS = {speaks_draft_02_alone: DRAFT_02, speaks_draft_07_alone: DRAFT_07}


async def run(case, facts):
    url, wanted_hash = urlsplit(facts["url"]), facts["cert_hash_hex"]
    protocol = partial(Client, settings=SETTINGS.get(case), metrics=facts["admin"] + "/metrics")
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=H3_ALPN,
        max_datagram_frame_size=65536,
        verify_mode=ssl.CERT_NONE,
    )
    async with connect(
        url.hostname, url.port, configuration=configuration, create_protocol=protocol
    ) as client:
        certificate = client._quic.tls._peer_certificate
        from cryptography.hazmat.primitives.serialization import Encoding

        seen_hash = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        assert seen_hash == wanted_hash, "another certificate than the one announced"
        await case(client, f"{url.hostname}:{url.port}")


async def main():
    with open(sys.argv[1], encoding="utf-8") as facts:
        facts = json.load(facts)
    failed = 0
    for case in CASES:
        try:
            await run(case, facts)
            print(f"ok     {case.__name__}")
        except Exception as error:  # whatever it is, the case has failed and the others are to run
            failed += 1
            print(f"FAILED {case.__name__}: {type(error).__name__}: {error}")
    print(f"aioquic: {len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
