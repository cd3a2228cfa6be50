// A client that follows a topic by long polling alone: node long-poll.mjs PACKAGE URL TOKEN TOPIC. It prints the seq of each update.

import { createRequire } from "node:module";

const [name, url, token, topic] = process.argv.slice(2);

// The part of XMLHttpRequest that `phoenix` uses before it knows `fetch`.
class Request {
  headers = {};
  abort() { this.controller?.abort(); }
  open(method, address) { Object.assign(this, { method, address }); }
  setRequestHeader(name, value) { this.headers[name] = value; }
  send(body) {
    this.controller = new AbortController();
    const { method, headers, controller: { signal } } = this;
    const options = { method, headers, signal, body: method === "GET" ? undefined : body };
    fetch(this.address, options).then(async (answer) => {
      this.responseText = await answer.text();
      this.readyState = 4;
      this.onreadystatechange();
    }).catch(() => signal.aborted || this.onerror());
  }
}
// Before 1.6 the package looks for it at a window, or at the object that is `self`.
globalThis.self = globalThis;
if (name !== "phoenix-1-8") globalThis.XMLHttpRequest = Request;

const { Socket, LongPoll } = createRequire(import.meta.url)(name);

let cursor;
// 1.8 sends the token in a header of its own.
const access = name.startsWith("phoenix-1-8") ? { authToken: token } : { params: { token } };
const socket = new Socket(`${url}/sync/v1`, { transport: LongPoll, ...access });
const channel = socket.channel(topic, () => cursor ?? { from: "floor" });
channel.on("sync:update_batch", ({ after, updates }) => {
  if (after > cursor.after) throw new Error(`a hole after ${cursor.after}: ${after}`);
  for (const { seq, published_at } of updates) {
    if (seq <= cursor.after) continue;
    cursor = { ...cursor, after: seq, published_at };
    console.log(seq);
  }
});
channel.join().receive("ok", ({ epoch, after }) => { cursor ??= { epoch, after }; });
socket.connect();
