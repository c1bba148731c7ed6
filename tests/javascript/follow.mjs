// Follow streams of a daemon and print a line of JSON a frame: node follow.mjs ADDRESS INSTRUMENTS KINDS CONTRACT

import { connect } from "../../marketd/client/javascript/marketd.js";

const [address, instruments, kinds, contract] = process.argv.slice(2);
const md = await connect(address, { name: "follow.mjs", heartbeat_s: 1 });
const stream = await md.subscribe(instruments.split(","), { kinds: kinds.split(","), contract, rate_hz: 50 });
const say = (value) => console.log(JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${item}` : item)));

say({ instance: md.server.instance, unmatched: stream.result.unmatched });
process.stdin.on("data", async (line) => {
  const { method, params, options } = JSON.parse(line);
  const batches = [];
  try {
    const call = method === "update" ? stream.update(params) : md.request(method, params, { ...options, onBatch: (b) => batches.push(b.data.length) });
    say({ answer: method, result: await call, batches });
  } catch (error) {
    say({ answer: method, code: error.code, message: error.message });
  }
});
process.stdin.on("end", () => md.close());
for await (const frame of stream) say(frame);
say({ kind: "end" });
