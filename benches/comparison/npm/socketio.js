// Socket.IO in Node.js, over WebSocket alone, with rooms as topics: node socketio.js PORT

const http = require("node:http");
const { Server } = require("socket.io");

const server = http.createServer();
const io = new Server(server, {
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
