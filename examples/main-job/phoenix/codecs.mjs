// The two serializers, as options of the `phoenix` client, such that an update's payload is its own text.
//
// V2 is the client's own; for V1 its `encode` and `decode` are replaced, as they can be.

import { member, members } from "./raw.mjs";

// Replaces each update's payload by its text: parsing would keep the value and lose the bytes.
const decoder = (parse, payloadOf) => (text, callback) => {
  const message = parse(text);
  if (message.event === "sync:update_batch") {
    const updates = [...members(member(payloadOf(text), "updates"))];
    message.payload.updates.forEach((update, index) => {
      update.payload = member(updates[index][1], "payload");
    });
  }
  callback(message);
};

const parseV2 = (text) => {
  const [join_ref, ref, topic, event, payload] = JSON.parse(text);
  return { join_ref, ref, topic, event, payload };
};

export const codecs = {
  "2.0.0": { decode: decoder(parseV2, (text) => [...members(text)][4][1]) },
  "1.0.0": {
    encode: (message, callback) => callback(JSON.stringify(message)),
    decode: decoder(JSON.parse, (text) => member(text, "payload")),
  },
};
