// Clients on the real `phoenix` client. Each follows some topics over one socket, and at random leaves its
// node for another one: half of the times it says goodbye and is away for a while, half of the times its connection is
// gone between two bytes. What it does to come back is what the client does by itself.
//
// The first line of stdin is the plan: {nodes: [url], topics: [name], token_file, seed, move_every_ms,
// clients: [[number, [index of a topic]]]}. On stdout it says what it sees, as JSON lines; every update that is
// applied is in there once. It ends when its stdin does.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { Socket } from "phoenix";
import { WebSocket } from "ws";

import { codecs } from "../../main-job/phoenix/codecs.mjs";
import { follow } from "../../main-job/phoenix/follow.mjs";

// How long a node may stay silent before the client gives it up: shorter than the client's own 30 s, so that a run with
// a node that stands still is no matter of minutes. The client itself has no limit for connecting; what puts users before
// nodes has one.
const SILENT_AFTER = 3_000;
const AWAY_AT_MOST = 3_000;
// What stands in front of the nodes, and what the sockets are told to connect to.
const BALANCER = "ws://balancer/sync/v1";

const say = (event, ...fields) => {
  process.stdout.write(`${JSON.stringify({ [event]: fields.length === 1 ? fields[0] : fields })}\n`);
};

// Mulberry32: what a client does comes from the seed and its number.
const chance = (state) => (below) => {
  state = (state + 0x6d2b79f5) | 0;
  let bits = Math.imul(state ^ (state >>> 15), 1 | state);
  bits ^= bits + Math.imul(bits ^ (bits >>> 7), 61 | bits);
  return ((bits ^ (bits >>> 14)) >>> 0) % below;
};

const join = (plan, number, topics) => {
  const draw = chance(plan.seed * 7919 + number);
  const fail = (message) => say("fault", number, message);
  let node = draw(plan.nodes.length);

  // The balancer: every connection goes to another node than the one before.
  class Balanced extends WebSocket {
    constructor(url, protocols) {
      node = (node + 1 + draw(plan.nodes.length - 1)) % plan.nodes.length;
      super(url.replace(BALANCER, plan.nodes[node]), protocols, { handshakeTimeout: SILENT_AFTER });
    }
  }
  const socket = new Socket(BALANCER, {
    transport: Balanced,
    vsn: "2.0.0",
    ...codecs["2.0.0"],
    authToken: () => readFileSync(plan.token_file, "utf8").trim(),
    heartbeatIntervalMs: SILENT_AFTER,
  });
  socket.onOpen(() => say("at", number, node));
  socket.onClose(({ code }) => say("left", number, code));
  for (const topic of topics) {
    follow(socket, plan.topics[topic], {
      cursor: null,
      fail: (message) => fail(`${plan.topics[topic]}: ${message}`),
      apply: (epoch, updates) =>
        say("applied", number, topic, epoch, updates[0].seq, updates.map(({ payload }) => payload)),
      say: (event, { resumed, repeated, code }) => {
        if (event === "joined") say("joined", resumed);
        else if (event === "refused") say("refused", code);
        else if (repeated > 0) say("repeated", repeated);
      },
    });
  }

  const move = () => {
    setTimeout(move, plan.move_every_ms / 2 + draw(plan.move_every_ms));
    if (!socket.isConnected()) return;
    if (draw(2) === 0) {
      socket.conn.terminate();
      return;
    }
    say("left", number, 1000);
    socket.disconnect(() => setTimeout(() => socket.connect(), draw(AWAY_AT_MOST)), 1000, "moving on");
  };
  setTimeout(move, draw(plan.move_every_ms));
  socket.connect();
};

const input = createInterface({ input: process.stdin });
input.once("line", (line) => {
  const plan = JSON.parse(line);
  for (const [number, topics] of plan.clients) join(plan, number, topics);
});
input.on("close", () => process.exit(0));
process.stdout.on("error", () => process.exit(1));
