// Creates and reads a run with the types that were generated from openapi.yaml.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./runledger.js";

type Event = components["schemas"]["Event"];
type KnownEvent = components["schemas"]["KnownEvent"];

const client = createClient<paths>({
  baseUrl: process.env.RUNLEDGER_URL,
  headers: { Authorization: `Bearer ${process.env.RUNLEDGER_API_KEY}` },
});

const body: components["schemas"]["RunRequest"] = {
  agent: {
    name: "Assistant",
    model: "demo/assistant",
    tools: [{ type: "builtin", name: "calculator" }],
  },
  input: "What is 17 * 23?",
  config: { run_id: "typescript-1", max_turns: 5 },
};
const create = (body: components["schemas"]["RunRequest"]) =>
  client.POST("/runs", {
    body,
    params: { query: { wait: 60 }, header: { "Idempotency-Key": "typescript-1" } },
  });

const created = await create(body);
assert.equal(created.response.status, 201);
assert.equal(created.response.headers.get("Location"), "/runs/typescript-1");

const path = { id: "typescript-1" };
const { data: run } = await client.GET("/runs/{id}", { params: { path } });
assert(run);
assert.equal(run.status, "COMPLETED");
assert.equal(run.tool_calls?.[0]?.result, 391);
assert(run.final_output?.includes("391"));

// A page may bring types that these types do not know: they pass by.
const known = (event: Event): KnownEvent => event as KnownEvent;
const { data: page } = await client.GET("/runs/{id}/events", {
  params: { path, query: { types: "tool_call,tool_result" } },
});
assert(page);
const results = page.data.map(known).flatMap((event) => {
  switch (event.type) {
    case "tool_call":
      return [event.executor];
    case "tool_result":
      return [event.result];
    default:
      return [];
  }
});
assert.deepEqual(results, ["server", 391]);

const again = await create(body);
assert.equal(again.response.status, 200);
assert.equal(again.response.headers.get("Idempotent-Replayed"), "true");

const { data: spec } = await client.GET("/runs/{id}/spec", { params: { path } });
assert.equal(spec?.agent.tools?.[0]?.name, "calculator");

const refused = await create({ ...body, config: { max_turns: 0 } });
assert.equal(refused.error?.code, "invalid_request");
assert.equal(refused.error?.errors?.[0]?.pointer, "/config/max_turns");

console.log(`typescript: ${run.run_id} ${run.status}: ${run.final_output}`);
