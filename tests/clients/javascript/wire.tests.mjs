// What clients of others send, frame by frame, as PROTOCOL.md says it is taken; and what `send` of realtime-js does.

import assert from "node:assert/strict";
import { once } from "node:events";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { WebSocket } from "ws";

import { CLIENTS, compose } from "./programs.mjs";
import { Server, until } from "./server.mjs";

const options = { concurrency: 32, timeout: 120_000 };
const TOPIC = "orders:7";

let server;
before(async () => {
  server = await Server.start({ KHALA_SESSION__HEARTBEAT_TIMEOUT_SECONDS: "1" });
  await server.publish(TOPIC, { kind: "paid", payload: { n: 1 } });
});
after(() => server.stop());

// A connection that keeps what it is sent.
const open = async (t, { path = "/sync/v1/websocket?vsn=2.0.0", ...ws } = {}) => {
  const headers = { Authorization: `Bearer ${server.token({ sub: t.name, seconds: 3_600 })}` };
  const socket = new WebSocket(`${server.ws}${path}`, { headers, ...ws });
  t.after(() => socket.terminate());
  const frames = [];
  socket.on("message", (data) => frames.push(JSON.parse(data)));
  await once(socket, "open");
  // Silence would end the connection, but in the test of it.
  const pings = setInterval(() => socket.ping(), 300);
  t.after(() => clearInterval(pings));
  const send = (frame, options) => socket.send(JSON.stringify(frame), options);
  const answer = (what, wanted) => until(() => `${what}: ${JSON.stringify(frames)}`, () => frames.find(wanted));
  return { socket, frames, send, answer, pings };
};

describe("the wire", options, () => {
  test("refs that are numbers come back as numbers", options, async (t) => {
    const { send, answer } = await open(t);
    send([3, 4, TOPIC, "phx_join", { from: "floor" }]);
    const [joinRef, ref, , , { status }] = await answer("the reply", ([, , , event]) => event === "phx_reply");
    assert.deepEqual([joinRef, ref, status], [3, 4, "ok"]);
    const [, , , , { updates }] = await answer("the update", ([, , , event]) => event === "sync:update_batch");
    assert.deepEqual(updates.map(({ payload }) => payload), [{ n: 1 }]);
    send([3, 5, TOPIC, "phx_leave", {}]);
    const [of] = await answer("the end", ([, , , event]) => event === "phx_close");
    assert.equal(of, 3);
  });

  test("without a vsn the serializer is V1", options, async (t) => {
    const { send, answer } = await open(t, { path: "/sync/v1/websocket" });
    send({ join_ref: "1", ref: "1", topic: TOPIC, event: "phx_join", payload: { from: "floor" } });
    const reply = await answer("the reply", ({ event }) => event === "phx_reply");
    assert.deepEqual([reply.ref, reply.payload.status], ["1", "ok"]);
    await answer("the update", ({ event }) => event === "sync:update_batch");
  });

  test("a ping is a sign of life, and silence is none", options, async (t) => {
    const [alive, silent] = await Promise.all([open(t), open(t)]);
    clearInterval(silent.pings);
    const [code] = await once(silent.socket, "close");
    assert.equal(code, 4000);
    // The one that pings has been as silent otherwise for as long.
    alive.send([null, "1", "phoenix", "heartbeat", {}]);
    await answered(alive, "1");
  });

  test("JSON in a binary frame is refused, and the connection goes on", options, async (t) => {
    const connection = await open(t);
    connection.send([null, "1", "phoenix", "heartbeat", {}], { binary: true });
    const [, , topic, , { code }] = await connection.answer("the refusal", ([, , , event]) => event === "sync:error");
    assert.deepEqual([topic, code], ["phoenix", "malformed_frame"]);
    connection.send([null, "2", "phoenix", "heartbeat", {}]);
    await answered(connection, "2");
  });

  test("permessage-deflate is declined, and frames are as they are", options, async (t) => {
    const connection = await open(t, { perMessageDeflate: true });
    assert.equal(connection.socket.extensions, "");
    connection.send(["1", "1", TOPIC, "phx_join", { from: "floor", note: "a".repeat(4_096) }]);
    await connection.answer("the update", ([, , , event]) => event === "sync:update_batch");
  });

  const answered = (connection, wanted) =>
    connection.answer(`the reply to ${wanted}`, ([, ref, , event]) => event === "phx_reply" && ref === wanted);
});

describe("send of realtime-js", options, () => {
  for (const client of CLIENTS.filter(({ name }) => name === "@supabase/realtime-js")) {
    test(`${client.label} publishes nothing`, options, async (t) => {
      const folder = compose(client, { suffix: "-send" });
      const topic = `rooms:${client.version}`;
      const load = (file) => import(pathToFileURL(join(folder, file)));
      const [{ KeptTopic }, { follow }] = await Promise.all([load("kept-topic.mjs"), load("follow.mjs")]);
      const kept = new KeptTopic(topic, { getItem: () => null, setItem: () => {} }, { start: "floor" });
      const token = server.token({ sub: client.installed, seconds: 3_600, scope: "khala:read khala:publish" });
      const warn = t.mock.method(console, "warn", () => {});
      const closes = [];
      const realtime = follow(kept, {
        url: server.ws,
        token: { current: () => token, onRenewed: () => {} },
        transport: WebSocket,
        heartbeatIntervalMs: 300,
      });
      t.after(() => realtime.disconnect());
      realtime.socketAdapter.onClose(({ code }) => closes.push(code));
      const [channel] = realtime.getChannels();
      const message = { type: "broadcast", event: "paid", payload: { n: 2 } };

      assert.equal(await channel.send(message), "error", "before the join it posts to a route that is not there");
      assert.equal(warn.mock.callCount(), 1);
      await until("it has joined", () => channel.channelAdapter.isJoined());
      assert.equal(await channel.send(message), "ok", "it waits for no reply");
      channel.params.config.broadcast.ack = true;
      assert.equal(await channel.send(message, { timeout: 500 }), "timed out");
      assert.equal(await channel.track({ name: "ada" }), "error");

      // What it sends are malformed frames to Khala, and too many of them end the connection: the client comes back.
      channel.params.config.broadcast.ack = false;
      for (let n = 0; n < 20; n += 1) await channel.send(message);
      await until(() => `the connection ends: ${closes}`, () => closes.includes(1008));
      await server.publish(topic, { kind: "paid", payload: { n: 3 } });
      await until("it is back", () => kept.feed.length > 0);
      assert.deepEqual(kept.feed, [{ seq: 1, kind: "paid", payload: { n: 3 } }]);
    });
  }
});
