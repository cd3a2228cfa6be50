// A khala-server of a test's own: a process in a folder of its own, on a free port, which can be killed and started again.

import { spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { mkdtempSync, openSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { TARGET } from "./programs.mjs";

export const BINARIES = process.env.KHALA_BIN_DIR ?? join(TARGET, "debug");

// Waits until `look` gives something; a thing that never comes fails with what it was.
export const until = async (what, look, seconds = 60) => {
  const end = Date.now() + seconds * 1_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within ${seconds} s: ${typeof what === "function" ? await what() : what}`);
    await sleep(25);
  }
};

// Below the ports that the system gives to outgoing connections: nothing takes it while the server is down.
export const freePort = async () => {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    const free = await new Promise((done) => {
      const probe = createServer().once("error", () => done(false));
      probe.listen(port, "127.0.0.1", () => probe.close(() => done(true)));
    });
    if (free) return port;
  }
};

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

// A process that ends with this one.
export const start = (command, args, options) => {
  const child = spawn(command, args, options);
  child.ended = new Promise((done) => child.once("exit", (code, signal) => done({ code, signal })));
  child.once("error", (fault) => console.error(`${command}: ${fault.message}`));
  running.add(child);
  child.ended.then(() => running.delete(child));
  return child;
};

export class Server {
  static async start(settings = {}) {
    const server = new Server();
    server.folder = mkdtempSync(join(tmpdir(), "khala-clients-"));
    server.address = `127.0.0.1:${await freePort()}`;
    server.env = {
      PATH: process.env.PATH,
      KHALA_LISTEN: server.address,
      KHALA_DATABASE: join(server.folder, "khala.db"),
      KHALA_AUTH__HS256_KEY: randomBytes(32).toString("hex"),
      KHALA_JWT__LEEWAY_SECONDS: "1",
      ...settings,
    };
    await server.run();
    server.publisher = server.token({ sub: "publisher", scope: "khala:publish", seconds: 3_600 });
    return server;
  }

  get http() { return `http://${this.address}`; }
  get ws() { return `ws://${this.address}`; }

  async run() {
    const log = openSync(join(this.folder, "log"), "a");
    this.child = start(join(BINARIES, "khala-server"), [], { cwd: this.folder, env: this.env, stdio: ["ignore", log, log] });
    await until(
      () => `khala-server is ready: ${readFileSync(join(this.folder, "log"), "utf8").slice(-2_000)}`,
      () => fetch(`${this.http}/readyz`).then(({ ok }) => ok, () => false),
    );
  }

  async kill() {
    this.child.kill("SIGKILL");
    await this.child.ended;
  }

  // The database is gone, as after a restore of nothing.
  wipe() {
    for (const file of readdirSync(this.folder)) if (file.startsWith("khala.db")) rmSync(join(this.folder, file));
  }

  async stop() {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  // Signed here: a process for each token would be slow where many are renewed.
  token({ sub, scope = "khala:read", seconds = 5 }) {
    const part = (value) => Buffer.from(value).toString("base64url");
    const iat = Math.floor(Date.now() / 1_000);
    const claims = { sub, scope, iat, exp: iat + seconds, jti: randomBytes(8).toString("hex") };
    const signed = `${part('{"alg":"HS256"}')}.${part(JSON.stringify(claims))}`;
    return `${signed}.${createHmac("sha256", this.env.KHALA_AUTH__HS256_KEY).update(signed).digest("base64url")}`;
  }

  // Publishes, however often the server is killed meanwhile, and gives the receipt.
  async publish(topic, update, dedup = randomBytes(8).toString("hex")) {
    const headers = {
      "Authorization": `Bearer ${this.publisher}`,
      "Content-Type": "application/json",
      "Idempotency-Key": dedup,
    };
    for (let tries = 0; ; tries += 1) {
      try {
        const options = { method: "POST", headers, body: JSON.stringify(update) };
        const answer = await fetch(`${this.http}/v1/topics/${topic}/updates`, options);
        const body = await answer.json();
        if (answer.ok) return body;
        throw new Error(JSON.stringify(body));
      } catch (fault) {
        if (tries === 400) throw fault;
        await sleep(25);
      }
    }
  }

  // The sum of the series of a metric whose labels hold all of `labels`.
  async metric(name, ...labels) {
    const text = await (await fetch(`${this.http}/metrics`)).text();
    const series = text.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
    const wanted = series.filter((line) => labels.every((label) => line.includes(label)));
    return wanted.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
  }
}
