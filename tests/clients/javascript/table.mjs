// The table of docs/clients.md: what each client got, between two marks. It is written with KHALA_CLIENTS_WRITE=1, and compared else.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";

import { PAGE } from "./programs.mjs";

const BEGINS = "<!-- the table of the JavaScript clients begins -->\n";
const ENDS = "<!-- the table of the JavaScript clients ends -->";

const COLUMNS = {
  "every update": "updates",
  "after a reload": "reload",
  "token renewed": "renewed",
  "token ended": "ended",
  "stale cursor": "stale",
  "`longPollFallbackMs`": "fallback",
};

export const table = (rows) => {
  const line = (cells) => `| ${cells.join(" | ")} |\n`;
  const head = ["client", "in", ...Object.keys(COLUMNS)];
  const body = rows.map(([label, where, cells]) => [label, where, ...Object.values(COLUMNS).map((column) => cells[column] ?? "–")]);
  return line(head) + line(head.map(() => "---")) + body.map(line).join("");
};

export const compare = (rows) => {
  const page = readFileSync(PAGE, "utf8");
  const from = page.indexOf(BEGINS) + BEGINS.length;
  const to = page.indexOf(ENDS);
  assert.ok(from >= BEGINS.length && to >= from, "docs/clients.md has both marks");
  const now = table(rows);
  if (process.env.KHALA_CLIENTS_WRITE) writeFileSync(PAGE, page.slice(0, from) + now + page.slice(to));
  else assert.equal(page.slice(from, to), now, "docs/clients.md is not current: scripts/clients --write js");
};
