// One client, in Node.js and in Chromium, through everything that its page says: a reload, two kills, tokens of 5 s, a time without
// fresh tokens, and a database that was deleted.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

import { Published } from "../check.mjs";
import { NodeProgram, PageProgram, Site } from "../drivers.mjs";
import { compose } from "../programs.mjs";
import { Server, until } from "../server.mjs";

const EVERY = 100;
const BEFORE = 40;
export const STREAMED = 150;

export const follow = async (client) => {
  const topic = "orders:7";
  const server = await Server.start();
  const folder = compose(client);
  const site = await Site.start(server, folder, topic);
  const programs = [NodeProgram, PageProgram].map((Program) => new Program({ server, site, folder, topic }));
  const published = new Published(server, topic);
  const got = Object.fromEntries(programs.map(({ where }) => [where, {}]));
  const each = (act) => Promise.all(programs.map((program) => act(program, got[program.where])));

  // What they keep is right at every moment, not only at the end; after the first snapshot their feeds go on and on.
  const begun = new Map();
  const look = (program) => async () => {
    const kept = await program.kept();
    if (!kept?.cursor || kept.cursor.epoch !== published.epoch) return undefined;
    // The server may have sent what the publisher is not told of yet.
    if (kept.cursor.after > published.head) return undefined;
    const since = published.check(kept);
    assert.equal(since, begun.get(program) ?? since, "the feed began anew");
    begun.set(program, since);
    return kept;
  };
  const caughtUp = () =>
    each((program) => {
      const what = async () =>
        `${program.where} has everything up to ${published.head}: ${JSON.stringify((await program.kept())?.cursor)} ${program.said.slice(-2_000)}`;
      return until(what, async () => (await look(program)())?.cursor.after === published.head);
    });
  const stream = async (count) => {
    for (let n = 0; n < count; n += 1) {
      await Promise.all([published.next(), sleep(EVERY)]);
      if (n % 5 === 0) await each((program) => look(program)());
    }
  };
  const restart = async () => {
    await server.kill();
    await server.run();
  };

  try {
    for (let n = 0; n < BEFORE; n += 1) await published.next();
    await each((program) => program.start());
    await caughtUp();

    await stream(20);
    const killed = restart();
    await stream(20);
    await killed;
    await caughtUp();
    await each(async (program) => {
      // A reload that lost the state would begin with another snapshot, and so with another feed.
      await program.reload();
    });
    await stream(10);
    await caughtUp();
    await each((_, row) => (row.reload = "kept, resumed"));

    // Longer than a token is good: a connection that was not closed for it got another one in time. Where the machine stood still for
    // longer than that, it is looked at once more.
    await stream(60);
    const ended = () => server.metric("khala_closes_total", 'reason="token_expired"');
    for (let tries = 1, before = 0, now = await ended(); now > before; tries += 1) {
      assert.ok(tries < 4, `${now} connections ended with their tokens`);
      await sleep(6_500);
      [before, now] = [now, await ended()];
    }
    await caughtUp();
    assert.ok((await server.metric("khala_refreshes_total")) >= 4);
    await each((_, row) => (row.renewed = "while open"));

    const again = restart();
    await stream(20);
    await again;
    await caughtUp();

    // No connection outlives its token, and none is made with one that ended.
    site.held = true;
    await until("their connections end with their tokens", async () => (await server.metric("khala_connections")) === 0);
    assert.ok((await ended()) >= 1);
    await stream(10);
    site.held = false;
    await stream(10);
    await caughtUp();
    await each((_, row) => (row.ended = "came back"));
    assert.equal(published.head, BEFORE + STREAMED);
    await each(async (program, row) => {
      const { cursor } = await program.kept();
      row.updates = `${cursor.after - BEFORE} of ${STREAMED}`;
    });

    await server.kill();
    server.wipe();
    await server.run();
    published.forget();
    begun.clear();
    for (let n = 0; n < 10; n += 1) await published.next("another");
    await caughtUp();
    assert.equal(await server.metric("khala_stale_cursors_total"), 2);
    // What they keep now is of use: they resume from it.
    await each((program) => program.reload());
    await until("they are back", async () => (await server.metric("khala_joins_total", 'resume="cursor"')) >= 2);
    for (let n = 0; n < 5; n += 1) await published.next("another");
    await caughtUp();
    assert.equal(await server.metric("khala_stale_cursors_total"), 2);
    assert.equal(await server.metric("khala_stale_loops_total"), 0);
    await each((_, row) => (row.stale = "began again once"));
    return got;
  } catch (fault) {
    for (const { where, said } of programs) fault.message += `\n${client.label} in ${where} said: ${said.slice(-3_000)}`;
    throw fault;
  } finally {
    await each((program) => program.stop().catch(() => {}));
    site.stop();
    await server.stop();
  }
};
