// The OpenAI SDK for JavaScript against a running server with the nano model.
//
//     node suite.mjs http://127.0.0.1:PORT

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import OpenAI from "openai";

const url = process.argv[2].replace(/\/$/, "");
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather in a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string", description: "The city." } },
      required: ["city"],
    },
  },
};

const user = (content) => [{ role: "user", content }];
const chat = (content, options = {}) =>
  client.chat.completions.create({ model: "nano", messages: user(content), temperature: 0, ...options });

/** Blocks that sequences hold, summed over both groups. */
async function blocksUsed() {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const lines = metrics.split("\n").filter((line) => line.startsWith("harmonium_kv_blocks_used{"));
  assert.equal(lines.length, 2);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

test("models are listed", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.deepEqual(ids, ["nano"]);
});

test("chat answers at every effort", async () => {
  for (const reasoning_effort of ["low", "medium", "high"]) {
    const { choices, usage } = await chat("What is the capital of France?", { reasoning_effort });
    assert.match(choices[0].message.content, /Paris/);
    assert.equal(choices[0].finish_reason, "stop");
    assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  }
});

test("stream says the same as the whole answer", async () => {
  const text = "What is the capital of Japan?";
  const whole = await chat(text);
  let content = "";
  let usage = null;
  const stream = await chat(text, { stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    content += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(content, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("stream helper gathers the answer", async () => {
  const runner = client.chat.completions.stream({
    model: "nano",
    messages: user("What is the capital of Italy?"),
    temperature: 0,
  });
  assert.match(await runner.finalContent(), /Rome/);
});

test("tool round trip", async () => {
  const messages = user("What is the weather in Oslo?");
  const first = await chat(null, { messages, tools: [weather] });
  const [choice] = first.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });

  const content = JSON.stringify({ city: "Oslo", temperature: 17, sky: "sunny" });
  messages.push(choice.message, { role: "tool", tool_call_id: call.id, content });
  const second = await chat(null, { messages, tools: [weather] });
  assert.match(second.choices[0].message.content, /17/);
});

test("a format and a demanded call are kept", async () => {
  const hot = { temperature: 1.4, seed: 1 };
  const schema = {
    type: "object",
    properties: { name: { type: "string" }, coast: { type: "string", enum: ["sea", "lake", "none"] } },
    required: ["name", "coast"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema } };
  const messages = user("Name a city as JSON.");
  const answer = await client.chat.completions.parse({ model: "nano", messages, response_format, ...hot });
  const { parsed } = answer.choices[0].message;
  assert.deepEqual(Object.keys(parsed), ["name", "coast"]);
  assert.ok(schema.properties.coast.enum.includes(parsed.coast));

  const required = { tools: [weather], tool_choice: "required", ...hot };
  const { choices } = await chat("What is the capital of France?", required);
  assert.equal(choices[0].finish_reason, "tool_calls");
  const [call] = choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.equal(typeof JSON.parse(call.function.arguments).city, "string");
});
test("tool call in a stream", async () => {
  let name = "";
  let args = "";
  const stream = await chat("What is the weather in Oslo?", { tools: [weather], stream: true });
  for await (const chunk of stream) {
    for (const call of chunk.choices[0]?.delta.tool_calls ?? []) {
      name += call.function.name ?? "";
      args += call.function.arguments ?? "";
    }
  }
  assert.equal(name, "get_weather");
  assert.deepEqual(JSON.parse(args), { city: "Oslo" });
});

test("errors have the SDK's types", async () => {
  await assert.rejects(chat("hello", { model: "no-such-model" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(chat("hello", { temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(chat("word ".repeat(5_000)), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "context_length_exceeded");
    return true;
  });
});

test("disconnect frees the blocks", async () => {
  const stream = await chat("hello", { stream: true, max_completion_tokens: 3000, ignore_eos: true });
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    if (chunks === 3) break;
  }
  const deadline = Date.now() + 20_000;
  while ((await blocksUsed()) > 0) {
    assert.ok(Date.now() < deadline, "blocks are still in use");
    await sleep(50);
  }
});
