// The official `openai` package against a gateway, with workers on the stand-in upstream.
// Environment: BASE_URL, MODEL, REPLY. Prints a line for each check; raises AssertionError.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { BASE_URL, MODEL: model, REPLY } = process.env;
const sent = [];
const unavailable = [];
const client = new OpenAI({
  baseURL: `${BASE_URL}/v1`,
  apiKey: "none",
  fetch: (url, options) => {
    sent.push(url);
    return unavailable.pop() ?? fetch(url, options);
  },
});
const user = (content) => [{ role: "user", content }];
const chat = (content, more = {}) =>
  client.chat.completions.create({ model, messages: user(content), ...more });
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

async function job(id) {
  return (await fetch(`${BASE_URL}/v1/jobs/${id}`)).json();
}

const checks = {
  async models() {
    const listed = [];
    for await (const each of client.models.list()) listed.push(each.id);
    assert.ok(listed.includes(model), listed.join());
  },
  async chat() {
    const answer = await chat("Hello");
    assert.equal(answer.choices[0].message.content, REPLY);
    assert.equal(answer.choices[0].finish_reason, "stop");
    assert.ok(answer.usage.total_tokens > 0);
  },
  async stream() {
    const chunks = [];
    const stream = await chat("Hello", { stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) chunks.push(chunk);
    const text = chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("");
    assert.equal(text, REPLY);
    assert.ok(chunks.at(-1).usage.total_tokens > 0);
  },
  async tools() {
    const { choices } = await chat("Where? [[tool_calls:2]]", { tools });
    assert.equal(choices[0].finish_reason, "tool_calls");
    const stream = client.chat.completions.stream({
      model, tools, messages: user("Where? [[tool_calls:2]]"),
    });
    const streamed = await stream.finalChatCompletion();
    for (const { message } of [choices[0], streamed.choices[0]]) {
      assert.equal(message.tool_calls.length, 2);
      for (const call of message.tool_calls) {
        assert.deepEqual(JSON.parse(call.function.arguments), { place: "Berlin" });
      }
    }
  },
  async errors() {
    await assert.rejects(chat("Hello", { messages: [] }), OpenAI.BadRequestError);
    await assert.rejects(chat("Hello", { n: 2 }), (error) => error.param === "n");
    const long = "[[context]]";
    for (const stream of [false, true]) {
      await assert.rejects(
        async () => { for await (const _ of await chat(long, { stream }));  },
        (error) => error.code === "context_length_exceeded",
      );
    }
  },
  async retries() {
    // A failed job is not paid twice; a gateway that is not available is asked again.
    let before = sent.length;
    await assert.rejects(chat("[[quota]]"), OpenAI.RateLimitError);
    assert.equal(sent.length, before + 1);
    const headers = { "retry-after-ms": "1" };
    unavailable.push(new Response("{}", { status: 503, headers }));
    before = sent.length;
    assert.equal((await chat("Hello")).choices[0].message.content, REPLY);
    assert.equal(sent.length, before + 2);
  },
  async abort() {
    const { data: stream, response } = await chat("[[stall:1]]", { stream: true }).withResponse();
    const id = response.headers.get("x-job-id");
    for await (const chunk of stream) {
      if (chunk.choices[0].delta.content) break; // leaving the loop aborts the request
    }
    while ((await job(id)).status !== "cancelled") await new Promise((go) => setTimeout(go, 50));
  },
  async background() {
    const made = await client.responses.create({
      model, input: "Hello", background: true, stream: true,
    });
    let id, last;
    for await (const event of made) {
      id ??= event.response.id;
      last = event.sequence_number;
      if (event.type === "response.output_text.delta") break;
    }
    const rest = await client.responses.retrieve(id, { stream: true, starting_after: last });
    const events = [];
    for await (const event of rest) events.push(event);
    assert.equal(events[0].sequence_number, last + 1);
    assert.equal(events.at(-1).type, "response.completed");
    assert.equal((await client.responses.retrieve(id)).output_text, REPLY);
    const endless = await client.responses.create({ model, input: "[[stall:1]]", background: true });
    assert.equal((await client.responses.cancel(endless.id)).status, "cancelled");
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name);
}
