// The Durable Streams server with its file store, which syncs each append: node durable-streams.js PORT FOLDER

const { DurableStreamTestServer } = require("@durable-streams/server");

new DurableStreamTestServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  dataDir: process.argv[3],
  compression: false,
}).start();
