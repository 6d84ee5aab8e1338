// What the cases are written with.

/** What the test says of this run: page.html tells its form. */
export const config = await (await fetch("/config.json", { cache: "no-store" })).json();

export const CHUNK_BYTES = 64 * 1024;

export function post(path, what) {
  return fetch(path, { method: "POST", body: JSON.stringify(what) });
}

let gateway;

/** Says which of the gateways the next case is for. */
export function use(name) {
  gateway = config.gateways[name];
  expect(gateway, `no gateway ${name}`);
}

/** Asks for a session. */
export function open(path, options = {}) {
  const wanted = Object.create(options); // no copy: a case may want to know which options are read
  if (gateway.hash) {
    const value = Uint8Array.from(atob(gateway.hash), (c) => c.charCodeAt(0));
    wanted.serverCertificateHashes = [{ algorithm: "sha-256", value }];
  }
  const session = new WebTransport(gateway.url + path, wanted);
  session.closed.catch(() => {}); // each case that cares for it awaits it by itself
  return session;
}

/** A session that stands. */
export async function ready(path, options) {
  const session = open(path, options);
  await session.ready;
  return session;
}

export function expect(truth, text) {
  if (!truth) throw new Error(text);
}

/** Bytes that differ from stream to stream and never repeat at a chunk's length. */
export function pattern(length, seed) {
  const bytes = new Uint8Array(length);
  let state = (seed * 2654435761 + 1) >>> 0;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

export async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (b) => b.toString(16).padStart(2, "0")).join("");
}

export async function writeAll(writable, bytes) {
  const writer = writable.getWriter();
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    await writer.ready;
    await writer.write(bytes.subarray(at, at + CHUNK_BYTES));
  }
  await writer.close();
}

export async function readAll(readable) {
  const chunks = [];
  let length = 0;
  const reader = readable.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
  }
  const all = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) { all.set(chunk, at); at += chunk.length; }
  return all;
}

/** Sends a pattern on a stream of its own and wants it back, whole and ended. */
export async function echo(session, length, seed) {
  return echoOn(await session.createBidirectionalStream(), length, seed);
}

/** The same on a stream that is open. */
export async function echoOn(stream, length, seed) {
  const sent = pattern(length, seed);
  const [, back] = await Promise.all([writeAll(stream.writable, sent), readAll(stream.readable)]);
  const [wanted, got] = await Promise.all([sha256(sent), sha256(back)]);
  expect(back.length === length, `${back.length} bytes of ${length} came back`);
  expect(wanted === got, `SHA-256 of what came back is ${got}, wanted ${wanted}`);
  return got;
}

export function datagramWriter(session) {
  return (session.datagrams.writable ?? session.datagrams.createWritable()).getWriter();
}

/** A session's datagrams: what comes is kept. */
export class Datagrams {
  came = [];

  constructor(session) {
    this.writer = datagramWriter(session);
    this.over = this.#read(session.datagrams.readable.getReader());
  }

  async #read(reader) {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.came.push(value);
    }
  }

  /** Sends a payload until its answer has come: any datagram may be lost. */
  async ask(payload, isAnswer) {
    const before = this.came.length;
    let rounds = 0;
    while (!this.came.slice(before).some(isAnswer)) {
      // A round is short at first: most often nothing is lost.
      if (rounds % 10 === 0) await this.writer.write(payload);
      rounds += 1;
      await pause(20);
    }
  }
}

export function same(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

/** Reads so many bytes; the stream goes on after them. */
export async function readText(reader, length) {
  const bytes = [];
  while (bytes.length < length) {
    const { value, done } = await reader.read();
    expect(!done, `the stream ended after ${bytes.length} bytes of ${length}`);
    bytes.push(...value);
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** What a promise rejects with; fails if it does not. */
export async function rejection(promise, what) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`${what} did not fail`);
}

/** The specification's constructor, or the one that browsers had before it. */
export function streamError(streamErrorCode) {
  try {
    const error = new WebTransportError("test", { source: "stream", streamErrorCode });
    if (error.streamErrorCode === streamErrorCode) return { error, form: "message, options" };
  } catch { /* the older form */ }
  return { error: new WebTransportError({ message: "test", streamErrorCode }), form: "options" };
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Waits until the Rust side has checked its half of a case. */
export async function askedToGoOn(name) {
  const answer = await fetch(`/go-on?${name}`, { cache: "no-store" });
  expect(answer.ok, `the test did not let ${name} go on`);
}
