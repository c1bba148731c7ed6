// The rows of a ring, byte by byte: docs/protocol.md, section 7.
//
// Times and sequence numbers are BigInt: they have more digits than a Number keeps. Prices, sizes and cursors are Number.

export const ROW_BYTES = 72;
export const ROW_HASH = "ea606afd6eae5184";
export const STEP_BYTES = 112;
export const STEP_HASH = "2828604b0abae98f";
export const KINDS = { 1: "trade", 2: "quote", 3: "level", 4: "gap", 5: "status" };

const VALUES = {
  trade: { price: "f", size: "f" },
  quote: { bid: "f", bid_size: "f", ask: "f", ask_size: "f" },
  level: { price: "f", size: "f" },
  gap: { from_ns: "i", to_ns: "i", reason: "n", lost: "n" },
  status: { code: "n" },
};
const BAR = {
  open: "f", high: "f", low: "f", close: "f", volume: "f", trade_count: "n", first_id: "i", last_id: "i", number: "n",
};
const INDEX = { instruments: "n", revised: "n" };

/** Read ticks, gaps and states; rows of a kind that is not known are left out. */
export function readTicks(data, names) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const rows = [];
  for (let at = 0; at + ROW_BYTES <= data.length; at += ROW_BYTES) {
    const kind = KINDS[view.getUint8(at + 36)];
    if (kind === undefined) continue;
    const instrument = view.getUint32(at + 32, true);
    const row = {
      kind,
      cursor: Number(view.getBigUint64(at, true)),
      event_ns: view.getBigInt64(at + 8, true),
      received_ns: view.getBigInt64(at + 16, true),
      sequence: view.getBigInt64(at + 24, true),
      instrument,
      fqme: names[instrument] ?? "*",
      side: view.getInt8(at + 37),
      flags: view.getUint16(at + 38, true),
    };
    rows.push(values(row, view, at + 40, VALUES[kind]));
  }
  return rows;
}

/** Read bars and index events; `kinds` are the names that the answer of `subscribe` gave. */
export function readSteps(data, names, kinds) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const rows = [];
  for (let at = 0; at + STEP_BYTES <= data.length; at += STEP_BYTES) {
    const kind = kinds[view.getUint8(at + 36)];
    if (kind === undefined) continue;
    const instrument = view.getUint32(at + 32, true);
    const row = {
      kind,
      cursor: Number(view.getBigUint64(at, true)),
      open_ns: view.getBigInt64(at + 8, true),
      made_ns: view.getBigInt64(at + 16, true),
      period_ns: view.getBigInt64(at + 24, true),
      instrument,
      fqme: names[instrument] ?? "*",
      state: view.getUint8(at + 37),
      flags: view.getUint16(at + 38, true),
    };
    rows.push(values(row, view, at + 40, kind.startsWith("index.") ? INDEX : BAR));
  }
  return rows;
}

function values(row, view, from, fields) {
  let at = from;
  for (const [name, type] of Object.entries(fields)) {
    if (type === "f") row[name] = view.getFloat64(at, true);
    else row[name] = type === "i" ? view.getBigInt64(at, true) : Number(view.getBigInt64(at, true));
    at += 8;
  }
  return row;
}
