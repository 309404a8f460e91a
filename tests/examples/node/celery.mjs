// Enqueue with celery-node and read with ioredis: node celery.mjs "Hello"
// Environment: REDIS_URL, CELERY_BROKER_URL. Prints the answer.
import celery from "celery-node";
import { Redis } from "ioredis";

const redisUrl = process.env.REDIS_URL ?? "redis://127.0.0.1:6379/0";
const brokerUrl = process.env.CELERY_BROKER_URL || redisUrl;
const TERMINAL = new Set(["completed", "failed", "cancelled"]);

// Yields each event after seq once and in order, up to the terminal event.
async function* read(redis, jobId, seq = 0) {
  const subscriber = redis.duplicate();
  const published = [];
  let wake = () => {};
  subscriber.on("message", (_, data) => { published.push(JSON.parse(data)); wake(); });
  await subscriber.subscribe(`job:${jobId}`); // resolves with the acknowledgement
  try {
    let batch = [];
    for (;;) {
      if (batch.length === 0 || batch[0].seq > seq + 1) { // the start, a gap, or silence
        const entries = await redis.xrange(`job:{${jobId}}:log`, `(${seq}-0`, "+");
        batch = [...entries.map(([, fields]) => JSON.parse(fields[1])), ...batch];
      }
      for (const event of batch) {
        if (event.seq <= seq) continue;
        if (event.seq > seq + 1) break; // the log comes first
        seq = event.seq;
        yield event;
        if (TERMINAL.has(event.type)) return;
      }
      if (published.length === 0) {
        await new Promise((resolve) => {
          const timer = setTimeout(resolve, 5000);
          wake = () => { clearTimeout(timer); resolve(); };
        });
      }
      batch = published.splice(0);
    }
  } finally {
    subscriber.disconnect();
  }
}

const client = celery.createClient(brokerUrl, brokerUrl, "prompts");
const job = { messages: [{ role: "user", content: process.argv[2] ?? "Hello" }] };
const { taskId } = client.createTask("worker.generate").applyAsync([job]);
const redis = new Redis(redisUrl);
let text = "";
for await (const event of read(redis, taskId)) {
  if (event.type === "reset") text = "";
  if (event.type === "chunk") text += event.content;
  if (TERMINAL.has(event.type)) console.log(event.type === "completed" ? text : event);
}
redis.disconnect();
await client.disconnect();
