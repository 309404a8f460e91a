// The page of the gateway: send a prompt, follow its events, and go on after a reload.
// The browser keeps job and ticket for this tab alone; EventSource comes back with its cursor.

const at = (id) => document.getElementById(id);
const [ask, prompt, model, key, keyField, cancel, problem] =
  ["ask", "prompt", "model", "key", "key-field", "cancel", "problem"].map(at);
const KEPT = "berlin-job";
let source = null;
let job = null;

const authorized = () => (key.value ? { Authorization: `Bearer ${key.value}` } : {});

async function call(method, path, body) {
  const headers = { ...authorized(), ...(body ? { "Content-Type": "application/json" } : {}) };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) keyField.hidden = false;
  if (!response.ok) throw new Error(answer.error?.message ?? `HTTP ${response.status}`);
  return answer;
}

function show(text) {
  problem.hidden = !text;
  problem.textContent = text;
}

function clear() {
  at("text").textContent = "";
  at("reasoning").lastElementChild.textContent = "";
  at("reasoning").hidden = true;
  at("calls").replaceChildren();
}

function figures(rows) {
  at("figures").replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    return [term, description];
  }));
}

function toolCall({ index, name, arguments: piece }) {
  const calls = at("calls");
  while (calls.children.length <= index) {
    const item = document.createElement("li");
    item.append(document.createElement("strong"), " ", document.createElement("code"));
    calls.append(item);
  }
  const item = calls.children[index];
  if (name) item.querySelector("strong").textContent = name;
  item.querySelector("code").append(piece);
}

const seconds = (ms) => (ms === null ? "none" : `${(ms / 1000).toFixed(2)} s`);

function stop(state) {
  at("state").textContent = state;
  cancel.disabled = true;
  source?.close();
}

function end(state) {
  stop(state);
  sessionStorage.removeItem(KEPT);
}

const handlers = {
  started: (event) => { at("state").textContent = `running, attempt ${event.attempt}`; },
  reset: (event) => {
    clear();
    at("state").textContent = `running again, attempt ${event.attempt} (${event.reason})`;
  },
  chunk: (event) => at("text").append(event.content),
  reasoning: (event) => {
    at("reasoning").hidden = false;
    at("reasoning").lastElementChild.append(event.content);
  },
  tool_call: toolCall,
  completed: (event) => {
    end(`completed: ${event.finish_reason}`);
    const { queue_ms, first_chunk_ms, stream_ms, total_ms } = event.timings;
    figures([
      ["in the queue", seconds(queue_ms)], ["to the first text", seconds(first_chunk_ms)],
      ["streaming", seconds(stream_ms)], ["in all", seconds(total_ms)],
      ["attempts", event.attempt],
      ...(event.usage ? [["tokens", `${event.usage.prompt_tokens} + ${event.usage.completion_tokens}`]] : []),
    ]);
  },
  failed: (event) => {
    end("failed");
    show(`${event.error.code}: ${event.error.message}`);
  },
  cancelled: (event) => end(`cancelled: ${event.reason}`),
  stream_error: (event) => {
    end("lost");
    show(event.error.message);
  },
};

function follow(kept) {
  job = kept;
  sessionStorage.setItem(KEPT, JSON.stringify(kept));
  clear();
  figures([]);
  at("job").hidden = false;
  cancel.disabled = false;
  at("state").textContent = "in the queue";
  source?.close();
  source = new EventSource(`${kept.events}?ticket=${encodeURIComponent(kept.ticket)}`);
  for (const [type, handle] of Object.entries(handlers)) {
    source.addEventListener(type, (message) => handle(JSON.parse(message.data)));
  }
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
    stop("lost"); // the job is kept: a page that is left sees this error, too
    show("The gateway refuses this job: it has expired, or its ticket has. Send the prompt again.");
  };
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  show("");
  const messages = [{ role: "user", content: prompt.value }];
  try {
    follow(await call("POST", "v1/jobs", { messages, ...(model.value ? { model: model.value } : {}) }));
  } catch (error) {
    show(error.message);
  }
});

prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask.requestSubmit();
});

cancel.addEventListener("click", async () => {
  try {
    await call("POST", `v1/jobs/${job.job_id}/cancel`);
  } catch (error) {
    show(error.message);
  }
});

async function listModels() {
  try {
    const { data } = await call("GET", "v1/models");
    at("models").replaceChildren(...data.map(({ id }) => new Option(id, id)));
  } catch { /* without a key there is no list */ }
}

key.addEventListener("change", listModels);
const kept = sessionStorage.getItem(KEPT);
if (kept) follow(JSON.parse(kept));
listModels();
