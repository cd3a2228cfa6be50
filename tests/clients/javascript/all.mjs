// All tests of this folder, in one process: they share a browser, and wait side by side.

import { after } from "node:test";

import "./check.tests.mjs";
import "./floor.tests.mjs";
import "./hole.tests.mjs";
import "./longpoll.tests.mjs";
import "./refused.tests.mjs";
import "./wire.tests.mjs";
import "./clients.tests.mjs";

// Clients of before 1.5 go on beating after they were disconnected, and would keep this process.
after(() => setTimeout(() => process.exit(), 500));
