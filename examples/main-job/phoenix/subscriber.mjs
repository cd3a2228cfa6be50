// A subscriber on the real `phoenix` client. What it does about a lost connection is nothing: its join
// parameters are a function of its cursor, and the client joins again by itself.
//
//   node subscriber.mjs URL TOPIC FILE 1.0.0|2.0.0 TOKEN-FILE
//
// It applies an update by appending one line to FILE: {"epoch","seq","payload": the payload's text, as a string}.
// The line is the effect and the cursor at once, so a SIGKILL between the two cannot happen: what FILE ends with
// is where it goes on. Its token is read from a file that somebody else keeps fresh, when it connects, and again and
// again to be handed over on the connection that it has. On stdout it says what it sees, as JSON lines. It ends when its stdin does.

import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";

import { Socket } from "phoenix";
import { WebSocket } from "ws";

import { codecs } from "./codecs.mjs";
import { follow } from "./follow.mjs";

const [url, topic, path, vsn, tokenFile] = process.argv.slice(2);
const token = () => readFileSync(tokenFile, "utf8").trim();
// A quarter of the time that a token is good.
const REFRESH_EVERY = 5_000;
const say = (event, fields) => writeSync(1, `${JSON.stringify({ event, ...fields })}\n`);
const fail = (message) => {
  say("fault", { message });
  process.exit(1);
};

// Where the last run of this process got to. A line that was torn by SIGKILL was not applied.
const kept = (() => {
  try {
    return readFileSync(path);
  } catch (error) {
    if (error.code === "ENOENT") return Buffer.alloc(0);
    throw error;
  }
})();
const end = kept.lastIndexOf("\n") + 1;
const file = openSync(path, "a");
ftruncateSync(file, end);
const last = kept.subarray(kept.lastIndexOf("\n", end - 2) + 1, end).toString();
const { epoch, seq } = last ? JSON.parse(last) : {};
const cursor = last ? { epoch, after: seq } : null;
say("started", { after: cursor?.after ?? null, torn: kept.length - end });

const codec = codecs[vsn] ?? fail(`no serializer ${vsn}`);

// Both ways of a browser to bring a token: the subprotocol and the query.
const credentials = vsn === "2.0.0" ? { authToken: token } : { params: () => ({ token: token() }) };
const socket = new Socket(url, { transport: WebSocket, vsn, ...codec, ...credentials });
const channel = follow(socket, topic, {
  cursor,
  fail,
  say,
  apply: (epoch, updates) => {
    const bytes = Buffer.from(updates.map(({ seq, payload }) => `${JSON.stringify({ epoch, seq, payload })}\n`).join(""));
    for (let at = 0; at < bytes.length; at += writeSync(file, bytes, at));
  },
});
socket.onOpen(() => say("connected", {}));
socket.onClose(({ code }) => say("closed", { code }));

// Both ways to hand a fresh token over: as a push on the channel, and beside all channels.
const answered = ({ status, response }) => {
  if (status === "ok") say("refreshed", { ends: response.expires_at });
  else if (response.code === "unavailable") say("refused", { code: response.code });
  else fail(`a fresh token was refused: ${response.code}`);
};
let asked;
socket.onMessage(({ topic, ref, payload }) => {
  if (topic === "phoenix" && ref && ref === asked) answered(payload);
});
const handOver = () => {
  // What connects anew brings a fresh token by itself.
  if (!socket.isConnected() || !channel.isJoined()) return;
  const payload = { access_token: token() };
  if (vsn === "2.0.0") {
    const push = channel.push("access_token", payload);
    for (const status of ["ok", "error"]) push.receive(status, (response) => answered({ status, response }));
  } else {
    asked = socket.makeRef();
    socket.push({ topic: "phoenix", event: "access_token", payload, ref: asked });
  }
};
setInterval(handOver, REFRESH_EVERY);

socket.connect();

process.stdin.on("end", () =>
  socket.disconnect(() => {
    closeSync(file);
    process.exit(0);
  }),
);
process.stdin.resume();
