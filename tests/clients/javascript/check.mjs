// The one checker: what a client keeps is what was published, up to its cursor, each update once and in order.

import assert from "node:assert/strict";

// What was published on a topic, as it was acknowledged.
export class Published {
  constructor(server, topic) {
    this.server = server;
    this.topic = topic;
    this.forget();
  }

  forget() {
    this.updates = [];
    this.epoch = undefined;
  }

  get head() { return this.updates.length; }

  async publish(update) {
    const receipt = await this.server.publish(this.topic, update);
    this.epoch ??= receipt.epoch;
    assert.equal(receipt.epoch, this.epoch);
    assert.equal(receipt.last, this.head + 1);
    this.updates.push({ seq: receipt.last, ...update });
  }

  // Documents of few keys, so that they are replaced often, and a tombstone now and then.
  async next(keys = "k") {
    const n = this.head + 1;
    const doc_key = `${keys}/${n % 7}`;
    await this.publish(n % 11 === 0 ? { kind: "gone", payload: null, doc_key, deleted: true } : { kind: "set", payload: { n }, doc_key });
  }

  // The documents as of the update `at`.
  documents(at) {
    const documents = new Map();
    for (const { seq, doc_key, payload, deleted } of this.updates.slice(0, at)) {
      if (deleted) documents.delete(doc_key);
      else documents.set(doc_key, { seq, payload });
    }
    return documents;
  }

  // Checks what a client keeps; gives the seq that its feed begins after.
  check({ cursor, documents, feed }) {
    assert.equal(cursor.epoch, this.epoch, "the epoch");
    assert.ok(cursor.after <= this.head, `the cursor ${cursor.after} is past ${this.head}`);
    const since = cursor.after - feed.length;
    assert.deepEqual(
      feed,
      this.updates.slice(since, cursor.after).map(({ seq, kind, payload }) => ({ seq, kind, payload })),
      "the feed: each update once and in order",
    );
    // Documents of a snapshot may be newer than the cursor; then the log repeats them.
    const expected = this.documents(cursor.after);
    const newer = new Map(documents.filter(([, { seq }]) => seq > cursor.after));
    for (const [key, { seq, payload }] of newer) {
      assert.deepEqual(payload, this.updates[seq - 1].payload);
      expected.delete(key);
    }
    const sorted = (entries) => [...entries].sort(([a], [b]) => (a < b ? -1 : 1));
    assert.deepEqual(sorted(documents.filter(([key]) => !newer.has(key))), sorted(expected), "the documents");
    return since;
  }
}
