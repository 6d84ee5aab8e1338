// Which requests become sessions.

import { echo, expect, open, ready, rejection } from "../session.js";

export const CASES = {
  /** Whatever a page may wait for fails. */
  async "refused"({ path, offered, datagrams }) {
    const session = open(path, { protocols: offered });
    const waited = {
      ready: session.ready,
      closed: session.closed,
      stream: session.createBidirectionalStream(),
      incoming: session.incomingBidirectionalStreams.getReader().read(),
    };
    if (datagrams) waited.datagram = session.datagrams.readable.getReader().read();
    const errors = await Promise.all(
      Object.entries(waited).map(([what, promise]) => rejection(promise, what)),
    );
    const [refusal, closed] = errors;
    for (const error of [refusal, closed]) {
      expect(error.name === "WebTransportError" && error.source === "session", `failed with ${error}`);
    }
    return { error: refusal.message };
  },

  async "protocols"({ path, offered, chosen }) {
    const session = await ready(path, { protocols: offered });
    expect(session.protocol === chosen, `the protocol is "${session.protocol}", wanted "${chosen}"`);
    await echo(session, 1000, 1);
    session.close();
    return { protocol: session.protocol };
  },

  /** Tells too whether the browser looks at the option at all. */
  async "pooling"({ path, sessions, bytes }) {
    let asked = false;
    const options = { get allowPooling() { asked = true; return true; } };
    const all = [];
    for (let n = 0; n < sessions; n++) all.push(await ready(path, options));
    await Promise.all(all.map((session, seed) => echo(session, bytes, seed)));
    const [first, ...others] = all;
    first.close();
    await first.closed;
    // The end of one leaves the others alone.
    await Promise.all(others.map((session, seed) => echo(session, bytes, seed)));
    for (const session of others) session.close();
    return { asked };
  },

  /** The specification has it so: a hash is for one connection alone. */
  async "pooling-with-hash"({ path }) {
    let refusal = null;
    try { open(path, { allowPooling: true }).close(); } catch (error) { refusal = error.name; }
    return { refusal };
  },
};
