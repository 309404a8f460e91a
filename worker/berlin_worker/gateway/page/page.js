// The page of the gateway. It sends a prompt and follows its events, also after a reload, and it
// shows the fleet. Job and ticket are stored for this tab alone; EventSource resumes by its cursor.

const at = (id) => document.getElementById(id);
const [ask, prompt, model, key, keyField, cancel, problem] =
  ["ask", "prompt", "model", "key", "key-field", "cancel", "problem"].map(at);
const KEPT = "berlin-job";
const POLL_MS = 2000;
let source = null;
let job = null;

const authorized = () => (key.value ? { Authorization: `Bearer ${key.value}` } : {});

async function call(method, path, body) {
  const headers = { ...authorized(), ...(body ? { "Content-Type": "application/json" } : {}) };
  const failed = () => { throw new Error("The gateway does not answer."); };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(failed);
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) keyField.hidden = false;
  if (!response.ok) throw new Error(answer.error?.message ?? `HTTP ${response.status}`);
  return answer;
}

function show(text, place = problem) {
  place.hidden = !text;
  place.textContent = text;
}

function clear() {
  at("text").textContent = "";
  at("reasoning").lastElementChild.textContent = "";
  at("reasoning").hidden = true;
  at("calls").replaceChildren();
}

function figures(rows, place = at("figures")) {
  place.replaceChildren(...rows.flatMap(([name, value]) => {
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

async function watchQueue(kept) {
  // Until a worker begins, the page shows the place of the job.
  while (job === kept && at("state").textContent.startsWith("in the queue")) {
    try {
      const { queued_jobs, queue_position } = await call("GET", `v1/jobs/${kept.job_id}?ticket=${encodeURIComponent(kept.ticket)}`);
      if (job !== kept || !at("state").textContent.startsWith("in the queue")) return;
      if (queued_jobs) {
        const place = queue_position === null ? "one" : `number ${queue_position}`;
        at("state").textContent = `in the queue: ${place} of ${queued_jobs} that wait`;
      }
    } catch { /* the handler of EventSource shows the error */ }
    await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
  }
}

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
    if (source.readyState !== EventSource.CLOSED) return; // EventSource reconnects by itself
    stop("lost"); // the job stays stored: leaving the page raises this error, too
    show("The gateway refuses this job: it has expired, or its ticket has. Send the prompt again.");
  };
  watchQueue(kept);
}

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  show("");
  const messages = [{ role: "user", content: prompt.value }];
  try {
    follow(await call("POST", "v1/jobs", { messages, ...chosen() }));
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

let listed = [];

function chosen() {
  // A model that one provider alone serves goes to it, as in chats.
  if (!model.value) return {};
  const owners = listed.filter(({ id }) => id === model.value).map(({ owned_by }) => owned_by);
  return { model: model.value, ...(owners.length === 1 ? { provider: owners[0] } : {}) };
}

async function listModels() {
  try {
    listed = (await call("GET", "v1/models")).data;
    at("models").replaceChildren(...listed.map(({ id, owned_by }) => new Option(owned_by, id)));
  } catch { /* without a key there is no list */ }
}

const unknown = (value, shown = (n) => n.toLocaleString("en")) => (value === null ? "-" : shown(value));
const duration = (s) => (s < 0.0995 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(1)} s`);
const COLUMNS = {
  worker: (row) => `${row.host}:${row.pid}${row.draining ? " (draining)" : ""}`,
  jobs: (row) => `${row.in_flight}/${unknown(row.capacity)}`,
  "chunks/s": (row) => unknown(row.chunks_per_s),
  "jobs/s": (row) => unknown(row.jobs_per_s),
  "first chunk": (row) => unknown(row.first_chunk_s, duration),
  lag: (row) => unknown(row.loop_lag_s, duration),
  done: (row) => unknown(row.completed),
  failed: (row) => unknown(row.failed),
  up: (row) => duration(row.up_s),
};

function cells(kind, texts) {
  return texts.map((text) => {
    const cell = document.createElement(kind);
    if (kind === "th") cell.scope = "col";
    cell.textContent = text;
    return cell;
  });
}

function showFleet(fleet) {
  const errors = Object.entries(fleet.errors).map(([code, count]) => `${code} ${count}`);
  figures([
    ["workers", `${fleet.workers.length}${fleet.draining ? `, ${fleet.draining} draining` : ""}`],
    ["queue", `${unknown(fleet.waiting)} waiting, recently for ${unknown(fleet.queue_wait_s, duration)}`],
    ["dead letters", unknown(fleet.dead_letters)],
    ["jobs", `${fleet.in_flight}/${unknown(fleet.capacity)} in flight, ${fleet.completed} completed, `
      + `${fleet.cancelled} cancelled, ${fleet.failed} failed`],
    ["stream", `${fleet.chunks_per_s} chunks/s, first chunk after ${unknown(fleet.first_chunk_s, duration)}`],
    ...Object.entries(fleet.tokens_per_min).map(([name, { input, output }]) => (
      [`tokens of ${name}`, `${input} in, ${output} out a minute`])),
    ["errors", [...errors, `retries ${fleet.retries}`].join(", ")],
    ["logins", `${fleet.logins}, ${fleet.logins_failed} failed`],
  ], at("fleet-figures"));
  at("workers").hidden = fleet.workers.length === 0;
  at("worker-head").replaceChildren(...cells("th", Object.keys(COLUMNS)));
  at("worker-rows").replaceChildren(...fleet.workers.map((row) => {
    const line = document.createElement("tr");
    line.append(...cells("td", Object.values(COLUMNS).map((column) => column(row))));
    return line;
  }));
}

async function watchFleet() {
  while (!at("view-fleet").hidden) {
    if (!document.hidden) {
      try {
        showFleet(await call("GET", "v1/fleet"));
        show("", at("fleet-problem"));
      } catch (error) {
        show(error.message, at("fleet-problem")); // the last figures stay on the page
      }
    }
    await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
  }
  watching = null;
}

let watching = null;
const tabs = [...document.querySelectorAll("[role=tab]")];
function select(chosen) {
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
  if (chosen.id === "tab-fleet") watching ??= watchFleet();
}
for (const [number, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(number + step + tabs.length) % tabs.length];
    next.focus();
    select(next);
  });
}

key.addEventListener("change", listModels);
const kept = sessionStorage.getItem(KEPT);
if (kept) follow(JSON.parse(kept));
listModels();
