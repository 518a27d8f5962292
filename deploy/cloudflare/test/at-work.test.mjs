// Run by tools/deploy/check, on what tsc makes of ../src.
import assert from "node:assert/strict";
import { test } from "node:test";

import { isAtWork } from "../built/at-work.js";

const CONDITIONS = ["starting", "busy", "retrying", "offline", "waiting", "stalled", "wedged", "idle", "other"];

/** What a town writes with one agent, in `condition`. */
const metrics = (condition) =>
  CONDITIONS.map((each) => `gastown_agent_conditions{condition="${each}"} ${each === condition ? "1.0" : "0.0"}`).join("\n");

const says = (condition) => isAtWork(async () => new Response(metrics(condition)));

for (const condition of ["starting", "busy", "retrying", "offline", "stalled", "wedged"])
  test(`a town with an agent that is ${condition} stays`, async () => assert.equal(await says(condition), true));

for (const condition of ["waiting", "idle", "other", undefined])
  test(`a town with an agent that is ${condition} may sleep`, async () => assert.equal(await says(condition), false));

for (const status of [401, 500, 503])
  test(`a town that answers ${status} stays`, async () =>
    assert.equal(await isAtWork(async () => new Response(metrics("idle"), { status })), true));

test("a town that does not answer stays", async () => {
  const late = () => Promise.reject(new DOMException("The operation was aborted due to timeout", "TimeoutError"));
  assert.equal(await isAtWork(late), true);
});

test("a town whose answer breaks off stays", async () => {
  const body = new ReadableStream({ pull: (controller) => controller.error(new Error("the connection was lost")) });
  assert.equal(await isAtWork(async () => new Response(body)), true);
});
