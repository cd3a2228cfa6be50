// The checker finds what it is for.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Published } from "./check.mjs";

test("the checker finds what is lost, doubled, reordered, changed, of a snapshot that was not taken as a whole, or of another epoch", async () => {
  let stored = 0;
  const published = new Published({ publish: async () => ({ epoch: "e", last: (stored += 1) }) }, "orders:7");
  for (let n = 0; n < 20; n += 1) await published.next();

  const good = () => ({
    cursor: { epoch: "e", after: 15 },
    documents: [...published.documents(15)],
    feed: published.updates.slice(5, 15).map(({ seq, kind, payload }) => ({ seq, kind, payload })),
  });
  assert.equal(published.check(good()), 5);

  const faults = {
    lost: ({ feed }) => feed.splice(3, 1),
    doubled: ({ feed }) => feed.splice(3, 0, feed[3]),
    reordered: ({ feed }) => feed.splice(3, 2, feed[4], feed[3]),
    "changed in the feed": ({ feed }) => (feed[3].payload = { n: 0 }),
    "changed in a document": ({ documents }) => (documents[2][1] = { ...documents[2][1], payload: { n: 0 } }),
    "an old document": ({ documents }) => documents.push(["old/1", { seq: 3, payload: { n: 3 } }]),
    "a document that is missing": ({ documents }) => documents.pop(),
    "a cursor behind its state": ({ cursor }) => (cursor.after = 14),
    "a cursor ahead of its state": ({ cursor }) => (cursor.after = 16),
    "a cursor past the head": ({ cursor }) => (cursor.after = 21),
    "another epoch": ({ cursor }) => (cursor.epoch = "f"),
  };
  for (const [fault, make] of Object.entries(faults)) {
    const kept = good();
    make(kept);
    assert.throws(() => published.check(kept), assert.AssertionError, fault);
  }
});
