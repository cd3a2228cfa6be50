// A topic without documents: the programs begin at the floor, and do so again where their cursor is stale.

import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { WebSocket } from "ws";

import { CLIENTS, compose } from "./programs.mjs";
import { Server, until } from "./server.mjs";

const options = { concurrency: 32, timeout: 120_000 };
const TOPIC = "run:7:events";

describe("a topic without documents", options, () => {
  for (const client of CLIENTS) {
    test(`${client.label} begins at the floor, and again there where its cursor is stale`, options, async (t) => {
      const server = await Server.start();
      t.after(() => server.stop());
      const folder = compose(client, { suffix: "-floor" });
      const load = (file) => import(pathToFileURL(join(folder, file)));
      const [{ KeptTopic }, { follow }] = await Promise.all([load("kept-topic.mjs"), load("follow.mjs")]);
      const kept = new KeptTopic(TOPIC, { getItem: () => null, setItem: () => {} }, { start: "floor" });
      const token = server.token({ sub: "node", seconds: 3_600 });
      const publish = async (...numbers) => {
        for (const n of numbers) await server.publish(TOPIC, { kind: "step", payload: { n } });
      };
      const feed = (...numbers) => until(
        () => `the feed is ${numbers}: ${JSON.stringify([kept.cursor, kept.feed])}`,
        () => JSON.stringify(kept.feed.map(({ payload }) => payload.n)) === JSON.stringify(numbers),
      );

      await publish(1, 2, 3);
      const socket = follow(kept, { url: server.ws, token: { current: () => token, onRenewed: () => {} }, transport: WebSocket });
      t.after(() => socket.disconnect());
      await feed(1, 2, 3);
      await publish(4);
      await feed(1, 2, 3, 4);
      const before = kept.cursor.epoch;

      await server.kill();
      server.wipe();
      await server.run();
      await publish(5, 6);
      await feed(5, 6);
      await publish(7);
      await feed(5, 6, 7);
      assert.notEqual(kept.cursor.epoch, before);
      assert.equal(await server.metric("khala_stale_loops_total"), 0);
    });
  }
});
