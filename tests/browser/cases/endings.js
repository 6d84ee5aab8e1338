// How streams and sessions end, and what the page sees of it.

import {
  askedToGoOn, CHUNK_BYTES, Datagrams, echo, expect, open, pattern, pause, post, readAll, readText, ready, rejection, same,
  streamError,
} from "../session.js";

/** Writes until it fails: some browsers tell only those who try. */
async function writeOn(writer) {
  for (;;) {
    await writer.write(new Uint8Array([1]));
    await pause(20);
  }
}

export const CASES = {
  /** The Rust side checks what the backend and the metrics saw of the reset. */
  async "stream-reset"({ path, code, text }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    const reader = stream.readable.getReader();
    await writer.write(new TextEncoder().encode(text));
    // What comes back proves that the backend has the bytes before the reset is sent.
    const back = await readText(reader, text.length);
    expect(back === text, `${back} came back`);
    const { error, form } = streamError(code);
    await writer.abort(error);
    await post("/event", { case: "stream-reset", event: "aborted" });
    await askedToGoOn("stream-reset");
    session.close();
    return { form };
  },

  /** A stream that the gateway resets: which code the page sees. */
  async "reset-by-gateway"({ path, code }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    writer.write(new Uint8Array([1])).catch(() => {}); // the reset may be quicker than the write
    writer.closed.catch(() => {});
    let seen = null;
    try {
      await readAll(stream.readable);
    } catch (error) {
      seen = error.streamErrorCode ?? `none: ${error}`;
    }
    expect(seen === code, `the stream error code is ${seen}, wanted ${code}`);
    session.close();
    return { code: seen };
  },

  /** A backend that breaks is an error, both for who reads and for who writes.
   *
   *  Where both halves of a stream end at once browsers keep the code of one of them: Firefox 153 fails the
   *  reader with a TypeError, Chromium 156 mostly the writer with a NetworkError. */
  async "reset-by-backend"({ path, code, text }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    const reader = stream.readable.getReader();
    writer.closed.catch(() => {}); // a write tells it too
    await writer.write(new TextEncoder().encode(text));
    const back = await readText(reader, text.length);
    expect(back === text, `${back} came back`);
    await post("/event", { case: "reset-by-backend", event: "open" });
    const read = await rejection(reader.read(), "read");
    const write = await rejection(writeOn(writer), "write");
    const codes = [read, write].map((error) => error.streamErrorCode ?? null);
    expect(codes.includes(code) && codes.every((seen) => seen === code || seen === null), `${read}, ${write}: ${codes}`);
    await post("/event", { case: "reset-by-backend", event: "seen" });
    await echo(session, 10_000, 1);
    session.close();
    return {};
  },

  /** Stops reading, and goes on writing. The Rust side plays a backend that talks and talks. */
  async "stream-cancel"({ path, code, text }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    const reader = stream.readable.getReader();
    await writer.write(new TextEncoder().encode("talk"));
    await reader.read();
    await reader.cancel(streamError(code).error);
    await post("/event", { case: "stream-cancel", event: "cancelled" });
    await askedToGoOn("stream-cancel");
    await writer.write(new TextEncoder().encode(text));
    await post("/event", { case: "stream-cancel", event: "written" });
    await askedToGoOn("stream-cancel");
    await writer.close();
    await askedToGoOn("stream-cancel");
    session.close();
    return {};
  },

  /** A reason of more than 1,024 bytes is cut by the browser; the Rust side knows where. */
  async "close-by-page"({ path, code, reason }) {
    const session = await ready(path);
    session.close({ closeCode: code, reason });
    const info = await session.closed;
    const isSame = info.reason === reason || (reason.length > 256 && reason.startsWith(info.reason));
    expect(info.closeCode === code && isSame, `closed says ${JSON.stringify(info)}`);
    return { code: info.closeCode };
  },

  /** Tells that the session is open; the Rust side then makes the gateway close it. */
  async "close-by-gateway"({ path, code, reason }) {
    const session = await ready(path);
    await post("/event", { case: "close-by-gateway", event: "open" });
    const info = await session.closed;
    expect(info.closeCode === code && info.reason === reason, `closed says ${JSON.stringify(info)}`);
    return {};
  },

  /** The gateway drains: the session goes on, a new one is refused, and the page ends when it likes. */
  async "draining"({ path, reason }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    const reader = stream.readable.getReader();
    await writer.write(new TextEncoder().encode("before "));
    expect(await readText(reader, 7) === "before ", "no echo before the drain");
    await post("/event", { case: "draining", event: "open" });
    await askedToGoOn("draining");
    // Neither Chromium 156 nor Firefox 153 has it.
    const isTold = "draining" in session;
    if (isTold) await session.draining;
    await writer.write(new TextEncoder().encode("and after"));
    expect(await readText(reader, 9) === "and after", "no echo in the drain");
    await echo(session, 10_000, 1);
    const payload = new TextEncoder().encode("still");
    await new Datagrams(session).ask(payload, (answer) => same(answer, payload));
    await rejection(open(path).ready, "a new session");
    session.close({ closeCode: 3, reason });
    const info = await session.closed;
    expect(info.closeCode === 3 && info.reason === reason, `closed says ${JSON.stringify(info)}`);
    return { isTold };
  },

  /** Last of all: leaves while bytes flow both ways, and never reports. */
  async "leave"({ path, after }) {
    const session = await ready(path);
    const stream = await session.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    const chunk = pattern(CHUNK_BYTES, 1);
    (async () => { for (;;) { await writer.ready; await writer.write(chunk); } })().catch(() => {});
    const reader = stream.readable.getReader();
    for (let back = 0; back < after;) {
      const { value, done } = await reader.read();
      expect(!done, "the echo ended early");
      back += value.length;
    }
    await post("/event", { case: "leave", event: "leaving" });
    location.href = "/left";
    await new Promise(() => {}); // the page is gone before this would matter
  },
};
