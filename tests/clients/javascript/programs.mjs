// The programs of docs/clients.md: taken out of the page as they stand, and put beside the package that they are written for.

import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));
export const ROOT = resolve(HERE, "../../..");
export const TARGET = resolve(ROOT, process.env.CARGO_TARGET_DIR ?? "target");
export const PAGE = join(ROOT, "docs/clients.md");
const SHARED = ["kept-topic.mjs", "fresh-token.mjs", "tokens.mjs", "index.html", "page.mjs", "node.mjs"];

// Each client: the package as this folder has it, its name for a program, and where its follow.mjs stands on the page.
const client = (installed, name, follow) => {
  const { version } = JSON.parse(readFileSync(join(HERE, "node_modules", installed, "package.json"), "utf8"));
  return { installed, name, follow, version, label: `\`${name}\` ${version}` };
};
export const CLIENTS = [
  client("phoenix-1-4", "phoenix", "phoenix-1-4/follow.mjs"),
  client("phoenix-1-5", "phoenix", "phoenix-1-4/follow.mjs"),
  client("phoenix-1-6", "phoenix", "phoenix-1-4/follow.mjs"),
  client("phoenix-1-7", "phoenix", "phoenix-1-4/follow.mjs"),
  client("phoenix-1-8-8", "phoenix", "phoenix-1-4/follow.mjs"),
  client("phoenix-1-8", "phoenix", "phoenix-1-8/follow.mjs"),
  client("realtime-js-2", "@supabase/realtime-js", "realtime-js/follow.mjs"),
  client("realtime-js-3", "@supabase/realtime-js", "realtime-js/follow.mjs"),
];

// The blocks of the page by the names of their files.
export const blocks = (page = readFileSync(PAGE, "utf8")) => {
  const found = new Map();
  for (const [, file, text] of page.matchAll(/^```(?:js|html) file=(\S+)\n(.*?)^```$/gms)) {
    if (found.has(file)) throw new Error(`docs/clients.md has ${file} twice`);
    found.set(file, text);
  }
  return found;
};

// Writes what a user of the client would have into a folder of its own. `change` may change the texts of files.
export const compose = ({ installed, name, follow }, { suffix = "", change = (_, text) => text } = {}) => {
  const folder = join(TARGET, "clients/javascript", `${installed}${suffix}`);
  rmSync(folder, { recursive: true, force: true });
  for (const [as, to] of [[name, installed], ["ws", "ws"]]) {
    const link = join(folder, "node_modules", as);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(HERE, "node_modules", to), link);
  }
  const page = blocks();
  const put = (from, to) => {
    if (!page.has(from)) throw new Error(`docs/clients.md has no block with file=${from}`);
    writeFileSync(join(folder, to), change(to, page.get(from)));
  };
  for (const file of SHARED) put(file, file);
  put(follow, "follow.mjs");
  return folder;
};
