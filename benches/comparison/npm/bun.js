// Bun's WebSocket server with its own publish and subscribe: bun bun.js PORT

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const [, role, topic] = new URL(request.url).pathname.split("/");
    if (server.upgrade(request, { data: { role, topic } })) return;
    return new Response(null, { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    // More than the load ever leaves unsent, so that nothing is dropped.
    backpressureLimit: 64 << 20,
    open(ws) {
      if (ws.data.role === "subscribe") ws.subscribe(ws.data.topic);
      ws.send("ready");
    },
    message(ws, text) {
      const end = text.indexOf(" ");
      server.publish(text.slice(0, end), text.slice(end + 1));
    },
  },
});
