// The Runner of an agent SDK, as a client of Runledger. It needs Node 18 and no packages.
//
//     node examples/runner.mjs
//
// RUNLEDGER_URL says where the service is, RUNLEDGER_API_KEY which key it wants.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const URL = (process.env.RUNLEDGER_URL ?? "http://127.0.0.1:8080").replace(/\/+$/, "");
const KEY = process.env.RUNLEDGER_API_KEY;
const ENDED = ["COMPLETED", "FAILED", "CANCELLED"];
const PATIENCE = 60_000; // milliseconds that the service may be away, for a restart say

/** A run that failed, or a request that was refused. `code` is what programs look at. */
class AgentError extends Error {
  constructor(code, message) {
    super(`${code}: ${message}`);
    this.code = code;
  }
}

/** The run, or one of its turns, took too long. */
class TimeoutError extends AgentError {}

/** What an answer says. A lost connection is tried again: every request here may be repeated. */
async function request(method, path, { body, headers = {}, read = (answer) => answer.json() } = {}) {
  const all = { "Content-Type": "application/json", ...headers };
  if (KEY) all.Authorization = `Bearer ${KEY}`;
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    try {
      const answer = await fetch(URL + path, { method, headers: all, body: body && JSON.stringify(body) });
      if (answer.ok) return await read(answer);
      const problem = await answer.json();
      if (!problem.retryable || Date.now() > deadline) throw new AgentError(problem.code, problem.detail);
    } catch (error) {
      if (error instanceof AgentError || Date.now() > deadline) throw error;
    }
    await sleep(200);
  }
}

/** Creates a run, once: with its key, a repeated POST finds the run that is there. */
async function create(agent, input, more = {}, wait = 0) {
  const headers = { "Idempotency-Key": randomUUID() };
  return request("POST", `/runs?wait=${wait}`, { body: { agent, input, ...more }, headers });
}

/** Runs the agent; the finished run, or an AgentError. */
async function run(agent, input, more) {
  let result = await create(agent, input, more, 60);
  while (!ENDED.includes(result.status)) {
    result = await request("GET", `/runs/${result.run_id}?wait=60`);
  }
  const { error } = result;
  if (error === null) return result;
  const isTimeout = ["max_time", "turn_timeout"].includes(error.code);
  throw new (isTimeout ? TimeoutError : AgentError)(error.code, error.message);
}

/** The run's events as they come; a connection that breaks off is made again. */
async function* runStream(agent, input, more) {
  const { run_id } = await create(agent, input, more);
  let last = 0;
  for (let hasEnded = false; !hasEnded; ) {
    const headers = { "Last-Event-ID": String(last) };
    const stream = await request("GET", `/runs/${run_id}/stream`, { headers, read: (answer) => answer.body });
    const decoder = new TextDecoder();
    let rest = "";
    try {
      for await (const bytes of stream) {
        const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines.filter((line) => line.startsWith("data: "))) {
          const event = JSON.parse(line.slice(6));
          last = event.seq;
          hasEnded = ["run.completed", "run.failed", "run.cancelled"].includes(event.type);
          yield event;
        }
      }
    } catch (error) {
      // The run goes on without us; we go on behind the last event that we have.
      if (error instanceof SyntaxError) throw error;
    }
  }
}

const agent = {
  name: "Assistant",
  instructions: "You help {{user}}.",
  tools: [{ type: "builtin", name: "calculator" }],
};
const alice = { variables: { user: "Alice" } };

let result = await run(agent, "What is 6*7?", alice);
console.log("run_sync:", result.final_output);

const { run_id } = await create(agent, "What is 2+3?", alice);
result = await request("GET", `/runs/${run_id}?wait=60`);
console.log("run_async:", result.final_output);

let text = "";
for await (const event of runStream(agent, "What is 6*7?", alice)) {
  if (event.type === "turn.started") text = ""; // A turn begins, or begins anew: a void attempt does not count.
  if (event.type === "text") text += event.content;
  if (event.type === "tool_call") console.log("run_stream: tool_call", event.tool_name, event.arguments.expression);
  if (event.type === "tool_result") console.log("run_stream: tool_result", String(event.result));
}
console.log("run_stream: text", text);

const config = { max_turns: 5, max_time: 30, timeout_per_turn: 10, metadata: { user_id: "123" } };
result = await run(agent, "What is 6*7?", { ...alice, config });
const json = (value) => JSON.stringify(value).replace(/":/g, '": ');
console.log(`RunConfig: max_turns ${result.config.max_turns} metadata ${json(result.metadata)}`);
console.log(`RunContext: variables ${json(result.variables)} history ${result.history.length}`);
console.log(`RunResult: ${result.status} turns ${result.turn_count} tool_calls ${result.tool_calls.length}`);

// Multi-turn: a run's history is where the next one goes on.
const again = await run(agent, "And what is 2*42?", { ...alice, history: result.history });
console.log(`conversation: ${again.history.length} messages: ${again.final_output}`);

const together = [2, 3, 4].map((n) => run(agent, `What is ${n}*${n}?`, alice));
for (const one of await Promise.all(together)) console.log("gather:", one.final_output);

for (const [who, input, limits] of [
  [agent, "Speak slowly", { max_time: 0.3 }],
  [agent, "What is 6*7?", { max_turns: 1 }],
  [{ name: "Assistant", model: "nobody/knows" }, "Hello", {}],
]) {
  try {
    await run(who, input, { ...alice, config: limits });
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    console.log(`${error.constructor.name}: ${error.code}`);
  }
}
