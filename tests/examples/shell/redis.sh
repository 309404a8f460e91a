#!/usr/bin/env bash
# Submit a job and follow it with redis-cli alone: shell/redis.sh "Hello"
# Environment: REDIS_URL. Prints the events.
# The prompt must not need escapes in JSON.
set -euo pipefail

redis=(redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379/0}" --raw)
job=$(cat /proc/sys/kernel/random/uuid)

# A message of Celery's task protocol 2, as kombu writes it: schemas/json/message.json. Its body is
# schemas/json/call.json in base64.
body=$(base64 -w 0 <<<'[[{"messages": [{"role": "user", "content": "'"${1:-Hello}"'"}]}], {}, {}]')
"${redis[@]}" LPUSH prompts '{"body": "'"$body"'",
    "content-type": "application/json", "content-encoding": "utf-8",
    "headers": {"lang": "sh", "task": "worker.generate", "id": "'"$job"'"},
    "properties": {"body_encoding": "base64", "delivery_tag": "'"$job"'",
        "delivery_info": {"exchange": "", "routing_key": "prompts"}}}' >/dev/null

# The log is a stream, so a blocking XREAD follows it. Each entry is printed in three lines: its ID,
# the name of its field, and the event.
cursor=0-0
while
    entries=$("${redis[@]}" XREAD BLOCK 5000 STREAMS "job:{$job}:log" "$cursor")
    events=$(grep '^{' <<<"$entries" || true)
    [ -z "$events" ] || printf '%s\n' "$events"
    ! grep -qE '"type":"(completed|failed|cancelled)"' <<<"$events"
do
    [ -z "$events" ] || cursor=$(grep -E '^[0-9]+-0$' <<<"$entries" | tail -n 1)
done
