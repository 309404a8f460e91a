#!/usr/bin/env bash
# Submit a job and follow it with curl alone: shell/gateway.sh "Hello"
# Environment: BASE_URL (the gateway), GATEWAY_KEY. Prints the events.
# The prompt must not need escapes in JSON.
set -euo pipefail

base=${BASE_URL:-http://127.0.0.1:8080}/v1
curl=(curl --silent --show-error --fail -H "Authorization: Bearer ${GATEWAY_KEY:-none}")

accepted=$("${curl[@]}" "$base/jobs" -H 'Content-Type: application/json' \
    -d '{"messages": [{"role": "user", "content": "'"${1:-Hello}"'"}]}')
job=$(sed -E 's/.*"job_id": ?"([^"]+)".*/\1/' <<<"$accepted")

seq=0 type=
until [[ $type =~ ^(completed|failed|cancelled)$ ]]; do # a stream that breaks off is continued
    before=$seq
    while IFS= read -r line; do
        case $line in
            'id: '*) seq=${line#id: } ;;
            'event: '*) type=${line#event: } ;;
            'data: '*) printf '%s\n' "${line#data: }" ;;
        esac
    done < <("${curl[@]}" --no-buffer "$base/jobs/$job/events" -H "Last-Event-ID: $seq")
    [ "$seq" != "$before" ] || exit 1
done
