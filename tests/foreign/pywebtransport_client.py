"""PyWebTransport (draft 16, session flow control) against a gateway that `tidegate dev` runs.

Usage: pywebtransport_client.py FACTS, where FACTS is the file with the line of `tidegate dev --print json`.
Each case prints one line; the last line counts them; the exit code is 1 if one failed.
"""

import asyncio
import json
import ssl
import sys

from pywebtransport import ClientConfig, WebTransportClient

PATIENCE = 20


async def echoes(session, data):
    stream = await session.create_bidirectional_stream()

    async def send():
        await stream.write_all(data=data, end_stream=True)

    _, back = await asyncio.gather(send(), stream.read_all())
    assert back == data, f"{len(back)} of {len(data)} bytes came back"


async def echoes_streams_and_datagrams(client, url):
    session = await client.connect(url=url)
    # More than the session's credit at first: it has to be given again.
    await echoes(session, bytes(range(256)) * 4096 * 24)
    await session.send_datagram(data=b"a datagram")
    assert await session.read_datagram() == b"a datagram"
    await session.close()


async def opens_more_streams_than_its_credit_at_first(client, url):
    session = await client.connect(url=url)
    for i in range(600):
        await echoes(session, b"stream %d" % i)
    await session.close()


async def sends_on_unidirectional_streams(client, url):
    session = await client.connect(url=url)
    stream = await session.create_unidirectional_stream()
    await stream.write_all(data=b"one way", end_stream=True)
    await session.close()


async def is_refused_on_an_unknown_path(client, url):
    try:
        await client.connect(url=url.rsplit("/", 1)[0] + "/nowhere")
    except Exception:  # the library does not tell the status
        return
    raise AssertionError("the session was accepted")


CASES = [
    echoes_streams_and_datagrams,
    opens_more_streams_than_its_credit_at_first,
    sends_on_unidirectional_streams,
    is_refused_on_an_unknown_path,
]


async def main():
    with open(sys.argv[1], encoding="utf-8") as facts:
        url = json.load(facts)["url"]
    failed = 0
    for case in CASES:
        try:
            config = ClientConfig(verify_mode=ssl.CERT_NONE)
            async with asyncio.timeout(PATIENCE), WebTransportClient(config=config) as client:
                await case(client, url)
            print(f"ok     {case.__name__}")
        except Exception as error:  # whatever it is, the case has failed and the others are to run
            failed += 1
            print(f"FAILED {case.__name__}: {type(error).__name__}: {error}")
    print(f"pywebtransport: {len(CASES) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
