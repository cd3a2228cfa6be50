// Follows one topic on the `phoenix` client: the join parameters are a function of the cursor, and that is all.
//
// `apply(epoch, updates)` is given what is new, in order and without a hole; `say(event, fields)` what is seen. What
// must not happen here ends in `fail(message)`: a hole, an answer that is not of this cursor, a cursor that is stale.

export const follow = (socket, topic, { cursor, fail, say, apply }) => {
  const channel = socket.channel(topic, () => cursor ?? { from: "floor" });

  channel.on("sync:update_batch", ({ after, updates }) => {
    // The client ignores the reply to a join that it has given up, on a connection that it is closing, but not what
    // follows that reply. Without a cursor there is nothing that it could be a continuation of.
    if (!cursor) return;
    if (after > cursor.after) return fail(`a hole: the batch continues from ${after}, applied is ${cursor.after}`);
    let reached = after;
    for (const { seq } of updates) {
      if (seq !== reached + 1) return fail(`a hole: ${seq} follows ${reached}`);
      reached = seq;
    }
    const fresh = updates.filter(({ seq }) => seq > cursor.after);
    if (fresh.length > 0) apply(cursor.epoch, fresh);
    if (reached > cursor.after) cursor = { epoch: cursor.epoch, after: reached };
    say("applied", { after: cursor.after, applied: fresh.length, repeated: updates.length - fresh.length });
  });

  channel
    .join()
    .receive("ok", ({ epoch, after, head }) => {
      if (cursor && cursor.epoch !== epoch) return fail(`the epoch went from ${cursor.epoch} to ${epoch}`);
      if (cursor && after > cursor.after) return fail(`resumed after ${after}, applied is ${cursor.after}`);
      say("joined", { after, head, resumed: cursor !== null });
      cursor ??= { epoch, after };
    })
    .receive("error", (refusal) => {
      // The client tries again by itself; only a cursor that cannot be resumed from would stay refused.
      if (refusal.code === "stale_cursor") return fail(`stale: ${JSON.stringify(refusal)}`);
      say("refused", { code: refusal.code });
    });
  channel.on("sync:error", (error) => {
    if (error.code === "stale_cursor") return fail(`stale: ${JSON.stringify(error)}`);
    say("refused", { code: error.code });
  });
  return channel;
};
