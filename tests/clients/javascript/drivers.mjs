// A program of the page at work: in a Node.js process, or in a page of headless Chromium. Both can be reloaded.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { build } from "esbuild";
import { chromium } from "playwright-core";

import { start } from "./server.mjs";

// The application's own server: it has the page, its script, and fresh tokens, unless they are held back.
export class Site {
  static async start(server, folder, topic) {
    const site = new Site();
    site.held = false;
    const bundled = await build({
      entryPoints: [join(folder, "page.mjs")],
      bundle: true,
      format: "esm",
      write: false,
      logLevel: "error",
    });
    const page = (sub) =>
      `<!doctype html><body data-url="${server.ws}" data-topic="${topic}" data-tokens="/khala-token?${sub}">` +
      `<ul></ul><p></p><script type="module" src="/page.js"></script>`;
    site.http = createServer((request, response) => {
      const [path, sub] = request.url.split("?");
      const answer = (status, type, body) => response.writeHead(status, { "Content-Type": type }).end(body);
      if (path === "/") return answer(200, "text/html", page(sub));
      if (path === "/page.js") return answer(200, "text/javascript", bundled.outputFiles[0].text);
      if (path !== "/khala-token") return answer(404, "text/plain", "");
      if (site.held) return answer(503, "text/plain", "");
      return answer(200, "text/plain", server.token({ sub }));
    });
    await new Promise((done) => site.http.listen(0, "127.0.0.1", done));
    site.url = `http://127.0.0.1:${site.http.address().port}`;
    return site;
  }

  stop() {
    this.http.closeAllConnections?.();
    this.http.close();
  }
}

export class NodeProgram {
  where = "Node.js";

  constructor({ server, site, folder, topic }) {
    Object.assign(this, { server, site, folder, topic });
    this.data = mkdtempSync(join(tmpdir(), "khala-client-"));
    this.file = join(this.data, "kept.json");
    this.said = "";
  }

  async start() {
    const args = ["node.mjs", this.server.ws, this.topic, this.file, `${this.site.url}/khala-token?node`];
    this.child = start(process.execPath, args, { cwd: this.folder, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (text) => (this.said += text));
  }

  async reload() {
    await this.end();
    await this.start();
  }

  async kept() {
    try {
      return JSON.parse(readFileSync(this.file, "utf8"));
    } catch (fault) {
      if (fault.code === "ENOENT") return undefined;
      throw fault;
    }
  }

  async end() {
    this.child?.kill("SIGKILL");
    await this.child?.ended;
  }

  async stop() {
    await this.end();
    rmSync(this.data, { recursive: true, force: true });
  }
}

// The tests share one browser.
let browser;
export const openBrowser = async () => {
  browser ??= await chromium.launch({
    executablePath: process.env.KHALA_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--disable-background-networking",
      "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    ],
  });
  return browser;
};

export class PageProgram {
  where = "Chromium";

  constructor({ site, topic }) {
    Object.assign(this, { site, topic, said: "" });
  }

  async start() {
    this.context = await browser.newContext();
    this.page = await this.context.newPage();
    this.page.on("console", (message) => (this.said += `${message.text()}\n`));
    this.page.on("pageerror", (fault) => (this.said += `${fault.stack}\n`));
    await this.page.goto(`${this.site.url}/?page`);
  }

  reload() {
    return this.page.reload();
  }

  async kept() {
    const text = await this.page.evaluate((key) => localStorage.getItem(key), `khala:${this.topic}`);
    return JSON.parse(text) ?? undefined;
  }

  async stop() {
    await this.context?.close();
  }
}
