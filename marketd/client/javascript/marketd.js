// A client of marketd for browsers and Node, without dependencies, written from docs/protocol.md alone.
//
//   import { connect } from "http://127.0.0.1:7601/client/marketd.js";
//
//   const md = await connect("ws://127.0.0.1:7601/ws");
//   for await (const frame of await md.subscribe(["*.sim"], { kinds: ["trade", "quote"] })) {
//     for (const row of frame.rows) console.log(row.kind, row.fqme, row.price ?? row.bid);
//   }
//
// A connection that breaks is made again, and every stream goes on where it stood: what was lost is a frame of kind "gap".

import { decode, encode } from "./messagepack.js";
import { advance } from "./position.js";
import { KINDS, ROW_HASH, STEP_HASH, readSteps, readTicks } from "./rows.js";
import { openTransport } from "./transport.js";

export { decode, encode };

const HEARTBEAT_S = 5;
const SILENT_HEARTBEATS = 2.5;
const BACKOFF_MS = { first: 100, most: 5000 };
const RETRY_MS = 1000;
const RETRYABLE = new Set([
  "unknown_instrument", "unknown_feed", "unavailable", "limit_exceeded", "deadline_exceeded", "internal",
]);
const STREAMS = new Set([
  "rows", "columns", "frame", "bars", "snapshot", "replay_completed", "gap_filled", "gap", "instruments", "status",
]);
const WAITING_ROWS = { pause: 1 << 18, resume: 1 << 16 }; // of a stream that nobody reads: the server keeps the rest

/** The daemon refused a request: `code` is stable, `message` for people, `data` has more. */
export class RequestError extends Error {
  constructor(body) {
    super(body.message);
    this.name = "RequestError";
    this.code = body.data?.code ?? String(body.code);
    this.data = body.data ?? {};
  }
}

/**
 * Connect, and say hello.
 *
 * @param address `ws://host:7601/ws`; in Node also `tcp://host:7600`, `tls://host:7600` and `unix:/path`
 * @param options `{name, token, heartbeat_s, reconnect}`: what the daemon's status calls this client; a token; the longest
 *   silence; false to end with the connection
 * @throws Error where nobody answers, RequestError where the daemon says no
 */
export async function connect(address, options = {}) {
  const client = new Client(address, options);
  await client.open();
  return client;
}

/** See {@link connect}. */
export class Client {
  constructor(address, { name = "marketd.js", token = null, heartbeat_s = HEARTBEAT_S, reconnect = true } = {}) {
    this.address = address;
    this.server = undefined; // what it said to hello
    this.closed = false;
    this.onNotice = () => {};
    this._hello = { client: name, token, heartbeat_s };
    this._reconnect = reconnect;
    this._transport = undefined;
    this._calls = new Map();
    this._nextId = 1;
    this._streams = new Set();
    this._byNumber = new Map();
    this._heardAt = 0;
    this._greeted = false; // hello was answered on this connection
    this._timer = undefined;
  }

  /** Connect once. */
  async open() {
    const handlers = {
      message: (bytes) => this._receive(bytes),
      closed: (reason) => this._lost(reason),
    };
    this._transport = await openTransport(this.address, handlers);
    this._heardAt = Date.now();
    try {
      this.server = await this._ask("hello", this._hello);
    } catch (error) {
      this._transport?.close();
      this._transport = undefined;
      throw error;
    }
    this._greeted = true;
    if (this.server.heartbeat_s > 0) {
      this._timer = setInterval(() => this._beat(), (this.server.heartbeat_s * 1000) / 2);
      this._timer.unref?.();
    }
  }

  /**
   * Ask for something: any method of docs/protocol.md, its params as there.
   *
   * @param options `{deadline_ms, onBatch, onProgress, onHits}`: called with the notifications of `history` and `ticks`,
   *   `backfill`, `search`
   */
  request(method, params = {}, options = {}) {
    if (this.closed) return Promise.reject(new Error("the client is closed"));
    if (this._transport === undefined) return Promise.reject(new Error(`${this.address} is not connected right now`));
    return this._ask(method, params, options);
  }

  /**
   * Subscribe to rows of some instruments.
   *
   * @param instruments names and globs
   * @param options `{kinds, contract, rate_hz, resume, from_ns, snapshot, forming_hz}` as the method `subscribe` has them
   * @returns a {@link Stream}: frames, one after the other, until it is closed
   */
  async subscribe(instruments, options = {}) {
    if (!readsRows(this.server)) throw new Error("the server's rows have another layout than this client knows");
    const stream = new Stream(this, { instruments, ...options, format: "rows" });
    await stream._open();
    this._streams.add(stream);
    return stream;
  }

  /** Hang up, and end all streams. */
  close() {
    this.closed = true;
    clearInterval(this._timer);
    this._transport?.close();
    this._transport = undefined;
    this._fail(new Error("the client was closed"));
    for (const stream of this._streams) stream._end();
    this._streams.clear();
  }

  _ask(method, params, options = {}) {
    const id = this._nextId;
    this._nextId += 1;
    return new Promise((resolve, reject) => {
      this._calls.set(id, { resolve, reject, options });
      this._transport.send(encode({ id, method, params, deadline_ms: options.deadline_ms }));
    });
  }

  _receive(bytes) {
    this._heardAt = Date.now();
    const message = decode(bytes);
    if (message.method !== undefined) this._told(message.method, message.params);
    else if (this._calls.has(message.id)) {
      const call = this._calls.get(message.id);
      this._calls.delete(message.id);
      if (message.error) call.reject(new RequestError(message.error));
      else call.resolve(message.result);
    } else if (message.error) this._fail(new RequestError(message.error)); // why the connection closes
  }

  _told(method, params) {
    if (STREAMS.has(method)) this._byNumber.get(params.subscription)?._take(method, params);
    else if (method === "notice") {
      this.onNotice(params);
      for (const stream of this._streams) stream._notice(params);
    } else if (method === "history.batch") this._calls.get(params.id)?.options.onBatch?.(params);
    else if (method === "backfill.progress") this._calls.get(params.id)?.options.onProgress?.(params);
    else if (method === "search.hits") this._calls.get(params.id)?.options.onHits?.(params.hits);
  }

  _beat() {
    if (Date.now() - this._heardAt > this.server.heartbeat_s * 1000 * SILENT_HEARTBEATS) {
      this._transport?.close();
      this._lost("nothing was heard for too long");
    } else this._transport?.send(encode({ method: "heartbeat", params: {} }));
  }

  _fail(error) {
    const calls = [...this._calls.values()];
    this._calls.clear();
    for (const call of calls) call.reject(error);
  }

  _lost(reason) {
    clearInterval(this._timer);
    if (this._transport === undefined || this.closed) return;
    this._transport = undefined;
    this._byNumber.clear();
    this._fail(new Error(`the connection to ${this.address} was lost: ${reason}`));
    if (!this._greeted) return; // whoever opens it is told, and tries again if that is wanted
    this._greeted = false;
    for (const stream of this._streams) {
      stream._tell({ state: "disconnected", detail: reason });
      stream._lost = true;
    }
    if (this._reconnect) this._comeBack();
    else this.close();
  }

  async _comeBack() {
    for (let pause = BACKOFF_MS.first; !this.closed; pause = Math.min(2 * pause, BACKOFF_MS.most)) {
      await sleep(pause * Math.random());
      try {
        await this.open();
      } catch (error) {
        if (error instanceof RequestError && error.code === "unauthorized") {
          for (const stream of this._streams) stream._tell({ state: "refused", detail: error.message });
          this.close(); // another attempt with the same token would end in the same way
          return;
        }
        continue; // nobody answers yet: that is why we try again
      }
      if (this.closed) {
        this.close(); // meanwhile
        return;
      }
      for (const stream of this._streams) stream._resume();
      return;
    }
  }
}

/**
 * Frames of one subscription, to be read with `for await`.
 *
 * A frame is `{kind, feed, epoch, cursor_first, cursor_last, rows}`: `kind` is "rows", "snapshot", "gap" (with `lost` and
 * `reason`; its rows will not come) or "status" (with `state` and `detail`; `rows` is empty). Rows are objects, see rows.js.
 */
export class Stream {
  constructor(client, params) {
    this.params = params;
    this.positions = { ...(params.resume ?? {}) };
    this.result = undefined; // the answer of subscribe
    this._client = client;
    this._names = {};
    this._kinds = {};
    this._frames = [];
    this._waitingRows = 0;
    this._reader = undefined;
    this._paused = false;
    this._held = false;
    this._lost = false; // and told so, and not resumed yet
    this._ended = false;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Return the next frame, as iterators do. */
  async next() {
    while (this._frames.length === 0) {
      if (this._ended) return { done: true, value: undefined };
      await new Promise((resolve) => { this._reader = resolve; });
    }
    const frame = this._frames.shift();
    this._waitingRows -= frame.rows.length;
    if (this._held && this._waitingRows < WAITING_ROWS.resume) this._hold(false);
    return { done: false, value: frame };
  }

  /** Close the stream when a loop over it is left. */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  /** Change it: `{add, remove, rate_hz, paused}` as the method `update` has them. */
  async update(changes) {
    this._opened(await this._client.request("update", { subscription: this.result.subscription, ...changes }));
    const { add = [], remove = [], paused, ...rest } = changes;
    const kept = this.params.instruments.filter((name) => !remove.includes(name));
    this.params = { ...this.params, ...rest, instruments: [...kept, ...add] };
    this._paused = paused ?? this._paused;
  }

  /** End it; frames that have come can still be read. */
  async close() {
    this._end();
    this._client._streams.delete(this);
    this._client._byNumber.delete(this.result?.subscription);
    if (this._client._transport !== undefined && this.result !== undefined) {
      await this._client.request("unsubscribe", { subscription: this.result.subscription }).catch(() => {});
    }
  }

  async _open() {
    // Messages of the stream follow the answer at once: the number must be known before the next one is read.
    const resume = this.positions;
    const asked = this._client._ask("subscribe", { ...this.params, resume });
    const client = this._client;
    const last = client._calls.get(client._nextId - 1);
    const { resolve } = last;
    last.resolve = (result) => {
      this._opened(result);
      resolve(result);
    };
    await asked;
  }

  _opened(result) {
    if (this._lost) this._tell({ state: "reconnected", detail: "" });
    this._lost = false;
    this.result = result;
    this._client._byNumber.set(result.subscription, this);
    const read = new Set(result.feeds.map((feed) => feed.name));
    for (const name of Object.keys(this.positions)) if (!read.has(name)) delete this.positions[name];
    for (const feed of result.feeds) {
      this._learn(feed.name, feed.epoch, feed.instruments, feed.kinds);
      this.positions[feed.name] ??= { epoch: feed.epoch, cursor: feed.cursor };
    }
  }

  async _resume() {
    while (!this._ended && this._client._transport !== undefined) {
      try {
        await this._open();
        this._held = false;
        if (this._paused) await this.update({ paused: true });
        return;
      } catch (error) {
        if (!(error instanceof RequestError)) return; // lost again: whoever comes back resumes
        if (!RETRYABLE.has(error.code)) {
          this._tell({ state: "ended", detail: error.message });
          this._end();
          return;
        }
        await sleep(RETRY_MS);
      }
    }
  }

  _take(method, message) {
    if (method === "instruments") this._learn(message.feed, message.epoch, message.instruments, message.kinds);
    else if (method === "status") this._tell({ state: message.state, detail: message.detail, feed: message.feed });
    else if (method === "replay_completed") this._tell({ state: method, detail: "", feed: message.feed });
    else if (method === "gap_filled") this._tell({ state: method, detail: message, feed: message.feed });
    else if (method === "snapshot") {
      this._put("snapshot", { ...message, cursor_first: message.cursor + 1, cursor_last: message.cursor }, this._rows(method, message));
    } else if (method === "gap") this._takeRange(message, []);
    else this._takeRange(message, this._rows(method, message));
  }

  _takeRange(message, rows) {
    const isGap = message.reason !== undefined;
    const latest = this.params.contract === "latest" && !message.feed.endsWith("/bars");
    const forming = message.cursor_last < message.cursor_first && rows.length > 0 && rows[0].cursor === 0;
    if (forming) {
      this._put("rows", message, rows);
      return;
    }
    const { gap, take, after } = latest && !isGap ? { take: true, after: 0 } : advance(this.positions[message.feed], message);
    if (gap !== undefined) this._put("gap", gap, [], { lost: gap.lost, reason: gap.reason });
    if (!take) return;
    if (isGap) this._put("gap", message, [], { lost: message.lost, reason: message.reason });
    else {
      const fresh = after ? rows.filter((row) => row.cursor > after) : rows;
      if (fresh.length) this._put("rows", message, fresh, { merged: message.merged ?? undefined });
    }
    this.positions[message.feed] = { epoch: message.epoch, cursor: message.cursor_last };
  }

  _rows(method, message) {
    const names = this._names[message.feed]?.names ?? {};
    return method === "bars" ? readSteps(message.data, names, this._kinds[message.feed] ?? {}) : readTicks(message.data, names);
  }

  _learn(feed, epoch, instruments, kinds) {
    const known = this._names[feed];
    this._names[feed] = { epoch, names: { ...(known?.epoch === epoch ? known.names : {}), ...instruments } };
    if (kinds) this._kinds[feed] = kinds;
  }

  _notice(notice) {
    this._tell({ state: notice.code, detail: notice.message });
  }

  _tell({ state, detail, feed = "" }) {
    this._put("status", { feed, epoch: 0, cursor_first: 0, cursor_last: 0 }, [], { state, detail });
  }

  _put(kind, message, rows, more = {}) {
    const { feed, epoch, cursor_first, cursor_last } = message;
    this._frames.push({ kind, feed, epoch, cursor_first, cursor_last, rows, ...more });
    this._waitingRows += rows.length;
    if (this._waitingRows > WAITING_ROWS.pause) this._hold(true);
    this._wake();
  }

  /** Let the server keep the rows of a stream that is not read; what it can't keep it tells as a gap. */
  _hold(held) {
    if (this._held === held || this._paused || this._client._transport === undefined) return;
    this._held = held;
    this._client.request("update", { subscription: this.result.subscription, paused: held }).catch(() => {});
  }

  _end() {
    this._ended = true;
    this._wake();
  }

  _wake() {
    this._reader?.();
    this._reader = undefined;
  }
}

/** Whether the rows of this server are those that this file can read. */
export function readsRows(server) {
  return server.row_hash === ROW_HASH && server.step_hash === STEP_HASH;
}

export { KINDS };

function sleep(ms) {
  return new Promise((resolve) => { setTimeout(resolve, ms); });
}
