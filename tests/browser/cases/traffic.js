// Bytes and datagrams that pass.

import {
  askedToGoOn, Datagrams, datagramWriter, echo, echoOn, expect, pattern, pause, post, readAll, ready, same, writeAll,
} from "../session.js";

export const CASES = {
  async "ready"({ path }) {
    const session = await ready(path);
    const maxDatagramSize = session.datagrams.maxDatagramSize;
    session.close();
    return { maxDatagramSize, reliability: session.reliability ?? null };
  },

  async "bidi-echo"({ path, bytes }) {
    const session = await ready(path);
    const digest = await echo(session, bytes, bytes);
    session.close();
    return { bytes, sha256: digest };
  },

  async "many-streams"({ path, streams, bytes }) {
    const session = await ready(path);
    await Promise.all(Array.from({ length: streams }, (_, seed) => echo(session, bytes, seed)));
    session.close();
    return { streams };
  },

  /** All are open at once before the first says anything. */
  async "idle-streams"({ path, streams, bytes }) {
    const session = await ready(path);
    const all = await Promise.all(Array.from({ length: streams }, () => session.createBidirectionalStream()));
    await post("/event", { case: "idle-streams", event: "open" });
    await askedToGoOn("idle-streams");
    await Promise.all(all.map((stream, seed) => echoOn(stream, bytes, seed)));
    session.close();
    return { streams };
  },

  /** Datagrams may be lost: sends anew what has not come back, until `wanted` of `count` have. */
  async "datagram-echo"({ path, count, wanted, bytes }) {
    const session = await ready(path);
    const writer = datagramWriter(session);
    const missing = new Map(Array.from({ length: count }, (_, n) => {
      const payload = pattern(bytes, n);
      payload[0] = n;
      return [n, payload];
    }));
    const reader = session.datagrams.readable.getReader();
    const reading = (async () => {
      while (count - missing.size < wanted) {
        const { value, done } = await reader.read();
        if (done) return;
        const sent = missing.get(value[0]);
        if (!sent) continue; // a second answer to what was sent twice
        expect(value.length === bytes && value.every((b, at) => b === sent[at]), `datagram ${value[0]} came back changed`);
        missing.delete(value[0]);
      }
    })();
    let rounds = 0;
    let reached = false;
    reading.then(() => { reached = true; }, () => { reached = true; });
    while (!reached) {
      rounds += 1;
      for (const payload of missing.values()) await writer.write(payload);
      await Promise.race([reading, pause(200)]);
    }
    await reading;
    const back = count - missing.size;
    expect(back >= wanted, `${back} of ${count} datagrams came back`);
    session.close();
    return { back, rounds };
  },

  /** The largest datagram passes whole both ways; the Rust side checks that nothing larger came. */
  async "datagram-sizes"({ path }) {
    const session = await ready(path);
    const datagrams = new Datagrams(session);
    let largest;
    let rounds = 0;
    do {
      // It may rise while the browser finds out what the path takes.
      largest = session.datagrams.maxDatagramSize;
      const payload = pattern(largest, largest);
      await datagrams.ask(payload, (answer) => same(answer, payload));
      // The specification wants it dropped without an error.
      await datagrams.writer.write(pattern(largest + 1, 0));
      const small = new Uint8Array([rounds]);
      await datagrams.ask(small, (answer) => same(answer, small));
      rounds += 1;
    } while (session.datagrams.maxDatagramSize !== largest);
    const lengths = datagrams.came.map((answer) => answer.length);
    expect(Math.max(...lengths) === largest, `${Math.max(...lengths)} bytes came back, ${largest} may be sent`);
    session.close();
    return { largest, rounds };
  },

  /** Each question has two answers, one of them too large. */
  async "large-reply"({ path, question, answer }) {
    const session = await ready(path);
    const datagrams = new Datagrams(session);
    const [asked, wanted] = [question, answer].map((text) => new TextEncoder().encode(text));
    await datagrams.ask(asked, (came) => same(came, wanted));
    const other = datagrams.came.find((came) => !same(came, wanted));
    expect(!other, `${other?.length} bytes came too`);
    session.close();
    return {};
  },

  /** The Rust side checks at the backend that all of it arrived and ended. */
  async "uni-stream"({ path, text }) {
    const session = await ready(path);
    await writeAll(await session.createUnidirectionalStream(), new TextEncoder().encode(text));
    await post("/event", { case: "uni-stream", event: "written" });
    await askedToGoOn("uni-stream");
    session.close();
    return { bytes: text.length };
  },

  /** Reads a stream of each kind that the gateway opens, answers on the one that takes answers. */
  async "incoming"({ unidirectional, bidirectional, text, answer, code, reason }) {
    const feed = await ready(unidirectional);
    const streams = feed.incomingUnidirectionalStreams.getReader();
    const news = await readAll((await streams.read()).value);
    const said = new TextDecoder().decode(news);
    expect(said === text, `the feed says ${said}`);
    feed.close();
    const shell = await ready(bidirectional);
    const stream = (await shell.incomingBidirectionalStreams.getReader().read()).value;
    const [, reply] = await Promise.all([
      writeAll(stream.writable, new TextEncoder().encode(answer)),
      readAll(stream.readable),
    ]);
    expect(new TextDecoder().decode(reply) === text, "the reply is another");
    const info = await shell.closed;
    expect(info.closeCode === code && info.reason === reason, `closed says ${JSON.stringify(info)}`);
    return { bytes: text.length };
  },

  async "several-sessions"({ path, sessions, bytes }) {
    const all = await Promise.all(Array.from({ length: sessions }, () => ready(path)));
    const digests = await Promise.all(all.map((session, seed) => echo(session, bytes, seed)));
    expect(new Set(digests).size === sessions, "two sessions got the same bytes");
    for (const session of all) session.close();
    await Promise.all(all.map((session) => session.closed));
    return { sessions };
  },
};
