// Socket.IO in Node.js, over WebSocket alone, one node of several that share a Redis: node socketio-redis.js PORT REDIS_PORT

const http = require("node:http");
const { createClient } = require("redis");
const { createAdapter } = require("@socket.io/redis-adapter");
const { Server } = require("socket.io");

async function main() {
  const publishes = createClient({ url: `redis://127.0.0.1:${process.argv[3]}` });
  const subscribes = publishes.duplicate();
  await Promise.all([publishes.connect(), subscribes.connect()]);
  const server = http.createServer();
  const io = new Server(server, {
    adapter: createAdapter(publishes, subscribes),
    transports: ["websocket"],
    perMessageDeflate: false,
    serveClient: false,
    // No pings while something is measured.
    pingInterval: 3_600_000,
  });
  io.on("connection", (socket) => {
    socket.on("join", (topic) => {
      socket.join(topic);
      socket.emit("ready");
    });
    socket.on("publish", (topic, payload) => io.to(topic).emit("update", payload));
  });
  server.listen(Number(process.argv[2]), "127.0.0.1");
}

main();
