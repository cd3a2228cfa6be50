// The programs of docs/clients.md against a server that does what Khala does not: it leaves a hole.

import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { WebSocket, WebSocketServer } from "ws";

import { CLIENTS, compose } from "./programs.mjs";

const options = { concurrency: 32, timeout: 120_000 };
const EPOCH = "5f0c1e9a77b3d2e4";

// What is sent after each join, as [after, ...seqs].
const ANSWERS = [
  [[0, 1, 2], [4, 5, 6], [6, 7]],
  [[1, 2, 3, 4], [4, 5, 6, 7]],
];

describe("a hole", options, () => {
  for (const client of CLIENTS) {
    test(`${client.label} comes back with its cursor, and has everything once`, options, async (t) => {
      const folder = compose(client, { suffix: "-hole" });
      const load = (file) => import(pathToFileURL(join(folder, file)));
      const [{ KeptTopic }, { follow }] = await Promise.all([load("kept-topic.mjs"), load("follow.mjs")]);

      const joins = [];
      const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
      t.after(() => {
        for (const connection of server.clients) connection.terminate();
        server.close();
      });
      server.on("connection", (connection) => {
        connection.on("message", (text) => {
          const [joinRef, ref, topic, event, payload] = JSON.parse(text);
          if (event !== "phx_join") return;
          const { after, epoch, published_at, from } = payload;
          joins.push({ after, epoch, published_at, from });
          const send = (...frame) => connection.send(JSON.stringify(frame));
          // On the route of realtime-js events are broadcasts, and one of them repeats the reply to a join.
          const realtime = topic.startsWith("realtime:");
          const sendEvent = (event, payload) =>
            realtime
              ? send(null, null, topic, "broadcast", { type: "broadcast", event, payload })
              : send(null, null, topic, event, payload);
          const response = { epoch: EPOCH, after: after ?? 0, head: 7, floor: 0 };
          send(joinRef, ref, topic, "phx_reply", { status: "ok", response });
          if (realtime) sendEvent("sync:joined", response);
          for (const [after, ...seqs] of ANSWERS[joins.length - 1] ?? []) {
            const updates = seqs.map((seq) => ({ seq, kind: "step", payload: null, published_at: 0 }));
            sendEvent("sync:update_batch", { after, head: 7, replay_complete: true, updates });
          }
        });
      });
      await once(server, "listening");

      const store = new Map();
      const storage = { getItem: (key) => store.get(key) ?? null, setItem: (key, value) => store.set(key, value) };
      const kept = await new Promise((done) => {
        const changed = (kept) => kept.cursor.after === 7 && done(kept);
        const topic = new KeptTopic("run:7:events", storage, { start: "floor", changed });
        const token = { current: () => "a.b.c", onRenewed: () => {} };
        const url = `ws://127.0.0.1:${server.address().port}`;
        const socket = follow(topic, { url, token, transport: WebSocket });
        t.after(() => socket.disconnect());
      });

      const none = { after: undefined, epoch: undefined, published_at: undefined };
      assert.deepEqual(joins, [
        { ...none, from: "floor" },
        { after: 2, epoch: EPOCH, published_at: 0, from: undefined },
      ]);
      assert.deepEqual(kept.feed.map(({ seq }) => seq), [1, 2, 3, 4, 5, 6, 7]);
      assert.deepEqual(JSON.parse(store.get("khala:run:7:events")).cursor, { epoch: EPOCH, after: 7, published_at: 0 });
    });
  }
});
