// The programs of docs/clients.md with the page's own token server: index.html shows documents as it stands, and each program says why it
// is refused.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { openBrowser } from "./drivers.mjs";
import { CLIENTS, compose } from "./programs.mjs";
import { BINARIES, Server, freePort, start, until } from "./server.mjs";

const options = { concurrency: 32, timeout: 120_000 };
const NEWEST = CLIENTS.find(({ installed }) => installed === "phoenix-1-8");
const REFUSALS = [
  { what: "a bad token", key: "another", topic: "orders:7", reason: /invalid_token|unknown_kid/ },
  { what: "a token without khala:read", scope: "publish", topic: "orders:7", reason: /khala:read/ },
  { what: "a topic that cannot be", topic: "orders 7", reason: /invalid_topic/ },
];

// tokens.mjs of the page in `folder`, which it serves.
const tokens = async (t, server, folder, key) => {
  const port = await freePort();
  const args = ["tokens.mjs", join(server.folder, key), port];
  const env = { ...process.env, PATH: `${BINARIES}:${process.env.PATH}` };
  const child = start(process.execPath, args, { cwd: folder, env, stdio: ["ignore", "pipe", "inherit"] });
  t.after(() => child.kill());
  await new Promise((done) => child.stdout.once("data", done));
  return `http://127.0.0.1:${port}`;
};

const runNode = (folder, args) => {
  const child = start(process.execPath, ["node.mjs", ...args], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  child.said = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (child.said += text));
  return child;
};

describe("the page's token server", options, () => {
  let server, browser;
  before(async () => {
    [server, browser] = await Promise.all([Server.start(), openBrowser()]);
    writeFileSync(join(server.folder, "key"), server.env.KHALA_AUTH__HS256_KEY);
    writeFileSync(join(server.folder, "another"), "0".repeat(64));
  });
  after(() => server.stop());

  const compile = (client, suffix, { scope = "read", topic = "orders:7" } = {}) => compose(client, {
    suffix,
    change: (file, text) => {
      if (file === "tokens.mjs") return text.replace('"read"', `"${scope}"`);
      if (file === "index.html") return text.replace("ws://127.0.0.1:4510", server.ws).replace("orders:7", topic);
      return text;
    },
  });
  const open = async (t, url) => {
    const page = await browser.newPage();
    t.after(() => page.close());
    await page.goto(url);
    return (what, pattern) => until(
      async () => `the page shows ${what}: ${await page.textContent("body")}`,
      async () => pattern.test(await page.textContent("body")),
    );
  };

  test("index.html shows the documents", options, async (t) => {
    const url = await tokens(t, server, compile(NEWEST, "-index"), "key");
    await server.publish("orders:7", { kind: "set", payload: { n: 1 }, doc_key: "order/1" });
    const shows = await open(t, url);
    await shows("the snapshot", /order\/1: {"n":1}/);
    await server.publish("orders:7", { kind: "set", payload: { n: 2 }, doc_key: "order/1" });
    await shows("the update", /order\/1: {"n":2}/);
    for (const path of ["/tokens.mjs/../key", "/key", "/package.json"]) assert.equal((await fetch(url + path)).status, 404);
  });

  for (const [n, { what, key = "key", scope, topic, reason }] of REFUSALS.entries()) {
    test(`index.html shows the reason: ${what}`, options, async (t) => {
      const url = await tokens(t, server, compile(NEWEST, `-page-refused-${n}`, { scope, topic }), key);
      const shows = await open(t, url);
      await shows("the reason", reason);
    });
    for (const client of CLIENTS) {
      test(`${client.label} ends with the reason: ${what}`, options, async (t) => {
        const folder = compile(client, `-refused-${n}`, { scope });
        const url = await tokens(t, server, folder, key);
        const child = runNode(folder, [server.ws, topic, join(server.folder, `${client.installed}-${n}`), url]);
        t.after(() => child.kill());
        await until(() => `it ends: ${child.said}`, () => child.exitCode !== null);
        await child.ended;
        assert.equal(child.exitCode, 1, child.said);
        assert.match(child.said, reason);
        assert.doesNotMatch(child.said, /^ +at .*:\d+:\d+/m, "a stack trace");
      });
    }
  }

  test("node.mjs says how it is used, and waits for its token server and for Khala", options, async (t) => {
    const folder = compile(NEWEST, "-waits");
    const usage = runNode(folder, []);
    assert.deepEqual(await usage.ended, { code: 1, signal: null });
    assert.match(usage.said, /^usage: node node\.mjs /);

    const nothing = `127.0.0.1:${await freePort()}`;
    const early = runNode(folder, [server.ws, "orders:7", join(server.folder, "early"), `http://${nothing}`]);
    t.after(() => early.kill());
    await until(() => early.said, () => /(no fresh token yet.*\s+){2}/.test(early.said));
    const url = await tokens(t, server, folder, "key");
    const lost = runNode(folder, [`ws://${nothing}`, "orders:7", join(server.folder, "lost"), url]);
    t.after(() => lost.kill());
    await until(() => lost.said, () => /(no connection to ws:.*\s+){2}/.test(lost.said));
    assert.deepEqual([early.exitCode, lost.exitCode], [null, null]);
  });
});
