// Each version of `phoenix` with long polling as its only transport: over a kill of the server it misses no update and repeats none.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Server, start, until } from "./server.mjs";

const options = { concurrency: 32, timeout: 120_000 };
const TOPIC = "orders:7";
const VERSIONS = ["phoenix-1-4", "phoenix-1-5", "phoenix-1-6", "phoenix-1-7", "phoenix-1-8-8", "phoenix-1-8"];

describe("long polling alone", options, () => {
  let server;
  const clients = [];
  before(async () => {
    server = await Server.start();
    for (const name of VERSIONS) {
      const token = server.token({ sub: name, seconds: 3_600 });
      const folder = new URL(".", import.meta.url).pathname;
      const args = ["long-poll.mjs", name, server.http, token, TOPIC];
      const child = start(process.execPath, args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
      const client = { name, child, said: "", seqs: [] };
      child.stdout.on("data", (text) => client.seqs.push(...String(text).trim().split("\n").map(Number)));
      child.stderr.on("data", (text) => { client.said += text; });
      clients.push(client);
    }
  });
  after(async () => {
    for (const { child } of clients) child.kill();
    await server.stop();
  });

  test("misses nothing over a restart of the server", options, async () => {
    let head = 0;
    const publish = async (count) => {
      for (let n = 0; n < count; n += 1) head = (await server.publish(TOPIC, { kind: "step", payload: { n } })).last;
      const told = () => clients.map(({ name, seqs, said }) => `${name} has ${seqs.at(-1)} of ${head} ${said.slice(-1_000)}`).join("\n");
      await until(told, () => clients.every(({ seqs }) => seqs.at(-1) === head));
    };
    await publish(20);
    for (let restarts = 0; restarts < 2; restarts += 1) {
      await server.kill();
      await sleep(500);
      await server.run();
      await publish(20);
    }
    const all = Array.from({ length: head }, (_, n) => n + 1);
    for (const { name, seqs } of clients) assert.deepEqual(seqs, all, name);
  });
});
