// MessagePack, as much of it as the protocol uses: https://github.com/msgpack/msgpack/blob/master/spec.md
//
// Integers beyond 2^53 become BigInt, maps become objects (their keys text), binary data Uint8Array.

const text = new TextDecoder();
const bytesOf = new TextEncoder();

/** Read one value. Throws RangeError where the bytes end too soon or are none. */
export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;

  function take(count) {
    const from = at;
    at += count;
    if (at > bytes.length) throw new RangeError("the bytes end in the middle of a value");
    return from;
  }
  const u8 = () => view.getUint8(take(1));
  const u16 = () => view.getUint16(take(2));
  const u32 = () => view.getUint32(take(4));
  const string = (size) => {
    const from = take(size);
    return text.decode(bytes.subarray(from, from + size));
  };
  const binary = (size) => {
    const from = take(size);
    return bytes.subarray(from, from + size);
  };
  const list = (size) => Array.from({ length: size }, value);
  const map = (size) => {
    const found = {};
    for (let i = 0; i < size; i += 1) {
      const key = value();
      Object.defineProperty(found, String(key), { value: value(), enumerable: true, writable: true, configurable: true });
    }
    return found;
  };

  function value() {
    const head = u8();
    if (head < 0x80) return head;
    if (head < 0x90) return map(head & 0x0f);
    if (head < 0xa0) return list(head & 0x0f);
    if (head < 0xc0) return string(head & 0x1f);
    if (head >= 0xe0) return head - 0x100;
    switch (head) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return binary(u8());
      case 0xc5: return binary(u16());
      case 0xc6: return binary(u32());
      case 0xca: return view.getFloat32(take(4));
      case 0xcb: return view.getFloat64(take(8));
      case 0xcc: return u8();
      case 0xcd: return u16();
      case 0xce: return u32();
      case 0xcf: return number(view.getBigUint64(take(8)));
      case 0xd0: return view.getInt8(take(1));
      case 0xd1: return view.getInt16(take(2));
      case 0xd2: return view.getInt32(take(4));
      case 0xd3: return number(view.getBigInt64(take(8)));
      case 0xd9: return string(u8());
      case 0xda: return string(u16());
      case 0xdb: return string(u32());
      case 0xdc: return list(u16());
      case 0xdd: return list(u32());
      case 0xde: return map(u16());
      case 0xdf: return map(u32());
      default: throw new RangeError(`0x${head.toString(16)} begins no value of this protocol`);
    }
  }

  const found = value();
  if (at !== bytes.length) throw new RangeError(`${bytes.length - at} bytes follow the value`);
  return found;
}

function number(big) {
  const plain = Number(big);
  return Number.isSafeInteger(plain) ? plain : big;
}

/** Write one value: null, booleans, numbers, BigInt, text, Uint8Array, lists and plain objects. */
export function encode(value) {
  const parts = [];
  put(parts, value);
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function put(parts, value) {
  if (value === null || value === undefined) parts.push(Uint8Array.of(0xc0));
  else if (typeof value === "boolean") parts.push(Uint8Array.of(value ? 0xc3 : 0xc2));
  else if (typeof value === "bigint") putBig(parts, value);
  else if (typeof value === "number") putNumber(parts, value);
  else if (typeof value === "string") putText(parts, value);
  else if (value instanceof Uint8Array) parts.push(sized(0xc6, value.length), value);
  else if (Array.isArray(value)) {
    parts.push(sized(0xdd, value.length));
    for (const item of value) put(parts, item);
  } else {
    const pairs = Object.entries(value).filter(([, item]) => item !== undefined);
    parts.push(sized(0xdf, pairs.length));
    for (const [key, item] of pairs) {
      putText(parts, key);
      put(parts, item);
    }
  }
}

function putNumber(parts, value) {
  if (Number.isSafeInteger(value)) {
    if (value >= 0 && value < 0x80) parts.push(Uint8Array.of(value));
    else putBig(parts, BigInt(value));
    return;
  }
  const bytes = new Uint8Array(9);
  bytes[0] = 0xcb;
  new DataView(bytes.buffer).setFloat64(1, value);
  parts.push(bytes);
}

function putBig(parts, value) {
  const bytes = new Uint8Array(9);
  const view = new DataView(bytes.buffer);
  bytes[0] = value < 0n ? 0xd3 : 0xcf;
  if (value < 0n) view.setBigInt64(1, value);
  else view.setBigUint64(1, value);
  parts.push(bytes);
}

function putText(parts, value) {
  const bytes = bytesOf.encode(value);
  parts.push(sized(0xdb, bytes.length), bytes);
}

function sized(head, size) {
  const bytes = new Uint8Array(5);
  bytes[0] = head;
  new DataView(bytes.buffer).setUint32(1, size);
  return bytes;
}
