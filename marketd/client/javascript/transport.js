// What carries messages: a WebSocket, in browsers and in Node; or, in Node, TCP, with TLS or without, and Unix sockets.
//
// Each returns `{send(bytes), close()}`; `handlers` are `{message(bytes), closed(reason)}`, `closed` called once.

/** Open `ws://…/ws`, `wss://…`, `tcp://host:port`, `tls://host:port` or `unix:/path`; resolves once messages can be sent. */
export function openTransport(address, handlers) {
  return /^wss?:/.test(address) ? openWebSocket(address, handlers) : openSocket(address, handlers);
}

function openWebSocket(address, handlers) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    let open = false;
    socket.onopen = () => {
      open = true;
      resolve({ send: (bytes) => socket.send(bytes), close: () => socket.close() });
    };
    socket.onmessage = (event) => handlers.message(new Uint8Array(event.data));
    socket.onerror = () => { // Node 20 says no more than this where nobody listens
      if (!open) reject(new Error(`can't connect to ${address}`));
    };
    socket.onclose = (event) => {
      const reason = event.reason || `closed with code ${event.code}`;
      if (open) handlers.closed(reason);
      else reject(new Error(`can't connect to ${address}: ${reason}`));
    };
  });
}

async function openSocket(address, handlers) {
  const encrypted = address.startsWith("tls:");
  const net = await (encrypted ? import("node:tls") : import("node:net"));
  const where = address.startsWith("unix:") ? { path: address.slice(5) } : hostPort(address);
  // Names go into the handshake, addresses must not: RFC 6066, 3.
  if (encrypted && !/^[\d.]+$|:/.test(where.host)) where.servername = where.host;
  return new Promise((resolve, reject) => {
    const socket = net.connect(where);
    let open = false;
    let kept = new Uint8Array(0);
    socket.setNoDelay?.(true);
    socket.on(encrypted ? "secureConnect" : "connect", () => {
      open = true;
      resolve({ send: (bytes) => socket.write(framed(bytes)), close: () => socket.destroy() });
    });
    socket.on("data", (chunk) => {
      kept = kept.length ? joined(kept, chunk) : chunk;
      let at = 0;
      while (kept.length - at >= 4) {
        const size = new DataView(kept.buffer, kept.byteOffset + at, 4).getUint32(0);
        if (kept.length - at - 4 < size) break;
        handlers.message(kept.slice(at + 4, at + 4 + size));
        at += 4 + size;
      }
      kept = kept.slice(at);
    });
    let problem = "the connection was closed";
    socket.on("error", (error) => { problem = error.message; });
    socket.on("close", () => {
      if (open) handlers.closed(problem);
      else reject(new Error(`can't connect to ${address}: ${problem}`));
    });
  });
}

function hostPort(address) {
  const found = /^(?:(?:tcp|tls):\/\/)?(?:\[(.+)\]|([^:]+)):(\d+)$/.exec(address);
  if (found === null) {
    throw new TypeError(`${address} is no address: they are like ws://127.0.0.1:7601/ws, tcp://127.0.0.1:7600, tls://host:7600, unix:/path`);
  }
  return { host: found[1] ?? found[2], port: Number(found[3]) };
}

function framed(bytes) {
  const frame = new Uint8Array(4 + bytes.length);
  new DataView(frame.buffer).setUint32(0, bytes.length);
  frame.set(bytes, 4);
  return frame;
}

function joined(one, other) {
  const bytes = new Uint8Array(one.length + other.length);
  bytes.set(one);
  bytes.set(other, one.length);
  return bytes;
}
