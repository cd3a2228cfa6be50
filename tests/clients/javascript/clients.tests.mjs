// Every program of docs/clients.md, on every client that it is for. All of it waits more than it works, so all of it runs side by side.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { openBrowser } from "./drivers.mjs";
import { CLIENTS } from "./programs.mjs";
import { fallback } from "./scenarios/fallback.mjs";
import { follow } from "./scenarios/follow.mjs";
import { compare } from "./table.mjs";

const options = { concurrency: 32, timeout: 300_000 };

// Where `longPollFallbackMs` is there, and what is written where it cannot be.
const FALLBACK = {
  "phoenix-1-7": { places: ["Chromium"], "Node.js": "needs `XMLHttpRequest`" },
  "phoenix-1-8-8": { places: ["Node.js", "Chromium"] },
  "phoenix-1-8": { places: ["Node.js", "Chromium"] },
};

const found = new Map();
const note = (client, rows) => {
  for (const [where, cells] of Object.entries(rows)) {
    const key = `${client.installed} ${where}`;
    found.set(key, { ...found.get(key), ...cells });
  }
};

let browser;
before(async () => (browser = await openBrowser()));
after(() => browser.close());

describe("clients of others", options, () => {
  for (const client of CLIENTS) {
    test(`${client.label} has every update once and in order`, options, async () => note(client, await follow(client)));
    if (!FALLBACK[client.installed]) continue;
    const { places, ...others } = FALLBACK[client.installed];
    for (const [where, why] of Object.entries(others)) note(client, { [where]: { fallback: why } });
    for (const where of places) {
      test(`${client.label} in ${where} goes on by long polling after a restart`, options, async () => {
        note(client, await fallback(client, where));
      });
    }
  }
});

test("the table of docs/clients.md is current", () => {
  const rows = CLIENTS.flatMap((client) =>
    ["Node.js", "Chromium"].map((where) => [client.label, where, found.get(`${client.installed} ${where}`) ?? {}]),
  );
  assert.ok(rows.every(([, , cells]) => cells.updates), "a client has no result");
  compare(rows);
});
