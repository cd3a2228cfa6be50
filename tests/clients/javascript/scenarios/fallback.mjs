// `longPollFallbackMs` over a restart of 6 s: the WebSocket fails, the client goes on by long polling, and misses nothing, also at the end
// of its token and over another restart.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

import { Published } from "../check.mjs";
import { NodeProgram, PageProgram, Site } from "../drivers.mjs";
import { compose } from "../programs.mjs";
import { Server, until } from "../server.mjs";

const DOWN = 6_000;

// The option, passed as the page says.
const change = (file, text) => {
  if (file !== "node.mjs" && file !== "page.mjs") return text;
  const changed = text.replace("follow(kept, { url,", "follow(kept, { longPollFallbackMs: 2500, url,");
  if (changed === text) throw new Error(`${file} does not call follow as the page says`);
  return changed;
};

export const fallback = async (client, where) => {
  const topic = "orders:7";
  const server = await Server.start();
  const folder = compose(client, { suffix: `-long-poll-${where}`, change });
  const site = await Site.start(server, folder, topic);
  const Program = where === "Chromium" ? PageProgram : NodeProgram;
  const program = new Program({ server, site, folder, topic });
  const published = new Published(server, topic);
  const polls = () => server.metric("khala_http_requests_total", "/longpoll", 'method="GET"');
  const caughtUp = () => {
    const what = async () => `it has everything up to ${published.head}: ${JSON.stringify((await program.kept())?.cursor)}`;
    return until(what, async () => {
      const kept = await program.kept();
      if (kept?.cursor?.after !== published.head) return undefined;
      published.check(kept);
      return true;
    });
  };
  const stream = async (count) => {
    for (let n = 0; n < count; n += 1) await Promise.all([published.next(), sleep(100)]);
    await caughtUp();
  };

  try {
    for (let n = 0; n < 5; n += 1) await published.next();
    await program.start();
    await caughtUp();
    await stream(5);
    assert.equal(await polls(), 0);
    await server.kill();
    await sleep(DOWN);
    await server.run();
    // Longer than a token is good.
    await stream(70);
    assert.ok((await polls()) > 0);
    // It comes back from the end of its token too.
    site.held = true;
    await until("its session ends with its token", async () => (await server.metric("khala_connections")) === 0);
    site.held = false;
    await stream(10);
    // The session of the long poll is gone now.
    await server.kill();
    await server.run();
    await stream(10);
    assert.ok((await polls()) > 0);
    return { [where]: { fallback: "polls, and goes on" } };
  } catch (fault) {
    fault.message += `\n${client.label} in ${where} said: ${program.said.slice(-3_000)}`;
    throw fault;
  } finally {
    await program.stop().catch(() => {});
    site.stop();
    await server.stop();
  }
};
