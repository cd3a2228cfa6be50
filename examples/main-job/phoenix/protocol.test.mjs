// The subscriber that PROTOCOL.md shows, as it stands there, against a server that leaves a hole.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Socket } from "phoenix";
import { WebSocket, WebSocketServer } from "ws";

const protocol = readFileSync(new URL("../../../PROTOCOL.md", import.meta.url), "utf8");
const [, block, ...others] = protocol.split("```js\n").map((text) => text.split("```")[0]);
const script = block.replace('import { Socket } from "phoenix";\n', "");

test("the subscriber comes back from a hole with its cursor, and gets everything once", { timeout: 30_000 }, async (t) => {
  assert.equal(others.length, 0);
  assert.notEqual(script, block);

  // What is sent after each join, as [after, ...seqs].
  const answers = [
    [[0, 1, 2], [4, 5, 6], [6, 7]],
    [[1, 2, 3, 4], [4, 5, 6, 7]],
  ];
  const joins = [];
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", path: "/sync/v1/websocket" });
  server.on("connection", (connection) => {
    connection.on("message", (text) => {
      const [joinRef, ref, topic, event, payload] = JSON.parse(text);
      if (event !== "phx_join") return;
      joins.push(payload);
      const send = (...frame) => connection.send(JSON.stringify(frame));
      const response = { epoch: "5f0c1e9a77b3d2e4", after: payload.after ?? 0, head: 7, floor: 0 };
      send(joinRef, ref, topic, "phx_reply", { status: "ok", response });
      for (const [after, ...seqs] of answers[joins.length - 1]) {
        const updates = seqs.map((seq) => ({ seq, kind: "step", payload: null, published_at: 0 }));
        send(null, null, topic, "sync:update_batch", { after, head: 7, replay_complete: true, updates });
      }
    });
  });
  await once(server, "listening");

  // What a browser has, and what the script leaves to its reader.
  const before = globalThis.WebSocket;
  globalThis.WebSocket = WebSocket;
  const applied = [];
  let socket;
  t.after(() => {
    socket?.disconnect();
    for (const connection of server.clients) connection.terminate();
    server.close();
    globalThis.WebSocket = before;
  });
  const stored = await new Promise((done) => {
    const given = {
      Socket,
      url: `ws://127.0.0.1:${server.address().port}`,
      token: "a.b.c",
      load: () => undefined,
      store: (cursor) => cursor.after === 7 && done(cursor),
      apply: ({ seq }) => applied.push(seq),
    };
    socket = new Function(...Object.keys(given), `${script}\nreturn socket;`)(...Object.values(given));
  });

  const epoch = "5f0c1e9a77b3d2e4";
  assert.deepEqual(joins, [{ from: "floor" }, { epoch, after: 2, published_at: 0 }]);
  assert.deepEqual(applied, [1, 2, 3, 4, 5, 6, 7]);
  assert.deepEqual(stored, { epoch, after: 7, published_at: 0 });
});
