// Stream a chat completion with the official package: node openai.mjs "Hello"
// Environment: BASE_URL (the gateway), GATEWAY_KEY, MODEL. Prints the answer.
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.BASE_URL ?? "http://127.0.0.1:8080"}/v1`,
  apiKey: process.env.GATEWAY_KEY ?? "none",
});

const stream = await client.chat.completions.create({
  model: process.env.MODEL ?? "gpt-3.5-turbo",
  messages: [{ role: "user", content: process.argv[2] ?? "Hello" }],
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  if (chunk.usage) process.stdout.write(`\n${chunk.usage.total_tokens} tokens\n`);
}
