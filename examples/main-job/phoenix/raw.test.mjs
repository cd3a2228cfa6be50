// What is cut out is the text that was there, and it is the text of the right value.

import assert from "node:assert/strict";
import { test } from "node:test";

import { member, members } from "./raw.mjs";

test("bytes that parsing would change are kept", () => {
  for (const payload of ["1.0", "-0", "1E2", '"\\u0041\\/"', "[ 1 ,2]", '{ "b":1,"a":2 }', "12345678901234567890", "null"]) {
    assert.equal(member(`{"seq":1, "payload" : ${payload} ,"z":[]}`, "payload"), payload);
  }
});

test("brackets, quotes and backslashes within text are text", () => {
  const tricky = ['"]"', '"\\""', '"\\\\"', '"{\\"a\\":["', '["}",{"]":"\\\\\\""}]', '""', "[[]]", '"\u{1f600}"'];
  const text = `[${tricky.join(" , ")}]`;
  assert.deepEqual([...members(text)].map(([, value]) => value), tricky);
});

test("an inner member of the same name is not taken", () => {
  assert.equal(member('{"a":{"payload":1},"b":"\\"payload\\":2","payload":3}', "payload"), "3");
  assert.equal(member('{"a":{"payload":1}}', "payload"), undefined);
});

test("whatever it is put together from comes apart again", () => {
  // A fixed generator: a failure can be repeated.
  let state = 7;
  const draw = (below) => (state = (state * 48271) % 2147483647) % below;
  const value = (depth) => {
    const kind = draw(depth > 3 ? 4 : 6);
    if (kind < 2) return draw(1000) / 8;
    if (kind === 2) return ["", '"', "\\", "],}", "\u2028\n", "a\\\"b"][draw(6)];
    if (kind === 3) return [true, false, null][draw(3)];
    const list = Array.from({ length: draw(4) }, () => value(depth + 1));
    return kind === 4 ? list : Object.fromEntries(list.map((each, index) => [`k${index}"`, each]));
  };
  for (let round = 0; round < 2000; round += 1) {
    const list = Array.from({ length: draw(6) }, () => value(0));
    const spaces = [undefined, 1, "\t"][draw(3)];
    const text = JSON.stringify(list, null, spaces);
    assert.deepEqual([...members(text)].map(([, each]) => JSON.parse(each)), list);
  }
});
