"""aioquic as a server that echoes WebTransport, for `tidegate-load`, which has to get on with any server.

Usage: aioquic_server.py CERTIFICATE KEY. Prints the port it listens on, and serves until it is stopped.
"""

import asyncio
import sys

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import (
    DataReceived,
    DatagramReceived,
    HeadersReceived,
    WebTransportStreamDataReceived,
)
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated


class Echo(QuicConnectionProtocol):
    """Accepts every session, and sends back what comes on its streams and as datagrams."""

    h3 = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.h3 = H3Connection(self._quic, enable_webtransport=True)
        if self.h3 is None:
            return
        for seen in self.h3.handle_event(event):
            if isinstance(seen, HeadersReceived):
                accepted = [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02")]
                self.h3.send_headers(seen.stream_id, accepted)
            elif isinstance(seen, DataReceived) and seen.stream_ended:
                # The client has closed its session.
                self.h3.send_data(seen.stream_id, b"", end_stream=True)
            elif isinstance(seen, WebTransportStreamDataReceived):
                # Its first bytes come with the stream's head, and its end may come without any.
                self._quic.send_stream_data(seen.stream_id, seen.data, seen.stream_ended)
            elif isinstance(seen, DatagramReceived):
                self.h3.send_datagram(seen.stream_id, seen.data)
        self.transmit()


async def main(certificate, key):
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN, is_client=False, max_datagram_frame_size=65536
    )
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Echo)
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
