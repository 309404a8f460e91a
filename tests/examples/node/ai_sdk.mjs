// Stream a text with the AI SDK: node ai_sdk.mjs "Hello"
// Environment: BASE_URL (the gateway), GATEWAY_KEY, MODEL. Prints the answer.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const gateway = createOpenAICompatible({
  name: "gateway",
  baseURL: `${process.env.BASE_URL ?? "http://127.0.0.1:8080"}/v1`,
  apiKey: process.env.GATEWAY_KEY ?? "none",
  includeUsage: true,
});

const { textStream, usage } = streamText({
  model: gateway(process.env.MODEL ?? "gpt-3.5-turbo"),
  prompt: process.argv[2] ?? "Hello",
  onError({ error }) { throw error; },
});
for await (const text of textStream) process.stdout.write(text);
console.log(`\n${(await usage).totalTokens} tokens`);
