// The OpenAI SDK for JavaScript against a server with a hosted model behind it: the same client code, whoever answers.
//
//     node hosted.mjs PATH/TO/harmonium
//
// The hosted model is a stand-in on loopback that speaks the Responses protocol; the Python suite has one for Chat
// Completions.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";

import OpenAI from "openai";

const KEY = "sk-upstream-secret";
const short = [{ role: "user", content: "What is the capital of France?" }];
// About 140,000 tokens.
const long = [{ role: "user", content: "word ".repeat(140_000) }];

/** Bodies of the requests upstream. */
const requests = [];
const upstream = createServer(async (request, response) => {
  let text = "";
  for await (const piece of request) text += piece;
  if (request.method !== "POST") return response.writeHead(404).end();
  const body = JSON.parse(text);
  requests.push({ url: request.url, authorization: request.headers.authorization, body });
  response.writeHead(200, { "content-type": "text/event-stream", "x-request-id": "up_1" });
  const send = (event) => response.write(`event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`);
  const id = { id: "resp_1", created_at: 7, model: "far-2026" };
  send({ type: "response.created", response: id });
  for (const delta of ["Far ", "away."]) send({ type: "response.output_text.delta", delta });
  const usage = { input_tokens: 140_000, output_tokens: 3, total_tokens: 140_003 };
  send({ type: "response.completed", response: { ...id, usage } });
  response.end();
});

const dir = mkdtempSync(join(tmpdir(), "harmonium-"));
let server;
let client;

before(async () => {
  await new Promise((done) => upstream.listen(0, "127.0.0.1", done));
  const config = join(dir, "harmonium.toml");
  writeFileSync(
    config,
    `
    [hosted]
    enabled = true
    default = "far"
    ledger = "${dir}/ledger.db"
    [[hosted.models]]
    name = "far"
    base_url = "http://127.0.0.1:${upstream.address().port}/v1"
    api_key_env = "FAR_KEY"
    wire = "responses"
    reasoning = true
    context = 1_000_000
    max_output = 1_000
    price = { input = 0.40, cached = 0.10, output = 1.60 }
    `,
  );
  server = spawn(process.argv[2], ["serve", "--config", config, "--port", "0"], {
    env: { ...process.env, FAR_KEY: KEY },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: server.stdout })) {
    if (!line.startsWith("listening on ")) continue;
    const baseURL = `${line.split(" ").at(-1)}/v1`;
    client = new OpenAI({ baseURL, apiKey: "client-secret", maxRetries: 0, timeout: 60_000 });
    break;
  }
  assert.ok(client, "the server listens");
});

after(async () => {
  const ended = new Promise((done) => server.once("exit", done));
  server.kill();
  await ended;
  upstream.close();
  rmSync(dir, { recursive: true });
});

test("the same code is answered here and there", async () => {
  const ask = async (messages) => {
    const request = { model: "nano", messages, temperature: 0, reasoning_effort: "low" };
    const { data, response } = await client.chat.completions.create(request).withResponse();
    return [data, response.headers];
  };
  const [near, nearHeaders] = await ask(short);
  assert.match(near.choices[0].message.content, /Paris/);
  assert.equal(nearHeaders.get("x-harmonium-backend"), "local");
  assert.equal(requests.length, 0);
  const [far, farHeaders] = await ask(long);
  assert.equal(far.choices[0].message.content, "Far away.");
  assert.equal(far.model, "far-2026");
  assert.equal(far.usage.prompt_tokens, 140_000);
  assert.equal(farHeaders.get("x-harmonium-reason"), "context");
  assert.equal(farHeaders.get("x-harmonium-cost-usd"), "0.056005");
  const [sent] = requests;
  assert.deepEqual([sent.url, sent.authorization], ["/v1/responses", `Bearer ${KEY}`]);
  assert.deepEqual([sent.body.reasoning, sent.body.store], [{ effort: "low" }, false]);
  assert.ok(!JSON.stringify(sent).includes("client-secret"));
});

test("streams are chat streams, whatever upstream speaks", async () => {
  const request = { model: "auto", messages: long, stream: true, stream_options: { include_usage: true } };
  let content = "";
  let usage = null;
  for await (const chunk of await client.chat.completions.create(request)) {
    content += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(content, "Far away.");
  assert.equal(usage.total_tokens, 140_003);
});
