// The JavaScript client against docs/conformance.json: node --test tests/javascript/conformance.test.mjs

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Stream } from "../../marketd/client/javascript/marketd.js";
import { decode, encode } from "../../marketd/client/javascript/messagepack.js";
import { readSteps, readTicks } from "../../marketd/client/javascript/rows.js";

const vectors = JSON.parse(readFileSync(new URL("../../docs/conformance.json", import.meta.url), "utf8"));
const bytesOf = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

/** What JSON can't say: BigInt as text with an n, bytes as hex. */
function plain(value) {
  if (typeof value === "bigint") return `${value}n`;
  if (value instanceof Uint8Array) return { hex: Buffer.from(value).toString("hex") };
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value;
}

test("MessagePack is read as it is written down", () => {
  for (const { hex, json } of vectors.messages) assert.deepEqual(plain(decode(bytesOf(hex))), json);
});

test("what is written is read back", () => {
  for (const { hex } of vectors.messages) {
    const value = decode(bytesOf(hex));
    assert.deepEqual(decode(encode(value)), value);
  }
});

test("bytes that are cut or none of the protocol's are refused", () => {
  for (const { hex } of vectors.messages) {
    const bytes = bytesOf(hex);
    for (let size = 0; size < bytes.length; size += 1) assert.throws(() => decode(bytes.subarray(0, size)), RangeError);
  }
  assert.throws(() => decode(Uint8Array.of(0xc1)), /0xc1 begins no value/);
  assert.throws(() => decode(Uint8Array.of(1, 2)), /1 bytes follow the value/);
});

test("rows are read byte by byte", () => {
  const { names, kinds, ticks, bars } = vectors.rows;
  for (const [found, expected] of [
    [readTicks(bytesOf(ticks.hex), names), ticks.rows],
    [readSteps(bytesOf(bars.hex), names, kinds), bars.rows],
  ]) {
    assert.equal(found.length, expected.length);
    for (const [row, fields] of found.map((each, i) => [plain(each), expected[i]])) {
      for (const [name, value] of Object.entries(fields)) assert.deepEqual(row[name], value, name);
      assert.equal(row.fqme, names[row.instrument] ?? "*");
    }
  }
});

for (const { name, position, messages, tells } of vectors.positions) {
  test(`positions: ${name}`, async () => {
    const stream = new Stream({}, { instruments: ["*"], resume: position ? { sim: position } : {} });
    for (const { method, cursors = [], ...message } of messages) {
      stream._rows = () => cursors.map((cursor) => ({ cursor }));
      stream._take(method, { feed: "sim", ...message });
    }
    stream._end();
    const told = [];
    for await (const frame of { [Symbol.asyncIterator]: () => ({ next: () => stream.next() }) }) {
      if (frame.kind === "gap") told.push(["gap", frame.cursor_first, frame.cursor_last, frame.reason]);
      else told.push(["rows", ...frame.rows.map((row) => row.cursor)]);
    }
    assert.deepEqual(told, tells);
  });
}
