// The bare `ws` package in Node.js: node ws.js PORT

const { WebSocketServer } = require("ws");

const topics = new Map();

new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false }).on(
  "connection",
  (socket, request) => {
    const [, role, topic] = request.url.split("/");
    if (role === "subscribe") {
      if (!topics.has(topic)) topics.set(topic, new Set());
      topics.get(topic).add(socket);
      socket.on("close", () => topics.get(topic).delete(socket));
    } else {
      socket.on("message", (data) => {
        const text = data.toString();
        const end = text.indexOf(" ");
        // A Buffer, so that it is made once for all.
        const payload = Buffer.from(text.slice(end + 1));
        for (const subscriber of topics.get(text.slice(0, end)) ?? []) subscriber.send(payload, { binary: false });
      });
    }
    socket.on("error", () => {});
    socket.send("ready");
  },
);
