#!/bin/sh
# A whole session with curl. It needs a running server and two variables:
#   ANTHROPIC_BASE_URL=http://127.0.0.1:8400  ANTHROPIC_API_KEY=$(cat DATA/api-key)
# The model is the first argument: an id of the server's configuration, or replay:PATH.
set -eu
model=${1:?"say which model: an id, or replay:/path/to/a/cassette.yaml"}
call() {
	method=$1 path=$2
	shift 2
	curl -sS --fail-with-body -X "$method" "$ANTHROPIC_BASE_URL/v1/$path" -H "x-api-key: $ANTHROPIC_API_KEY" \
		-H "anthropic-version: 2023-06-01" -H "anthropic-beta: managed-agents-2026-04-01" -H "content-type: application/json" "$@"
}
id() { sed 's/^{"id":"\([^"]*\)".*/\1/'; }

agent=$(call POST agents -d '{"name":"curl example","model":"'"$model"'","tools":[{"type":"agent_toolset_20260401"}]}' | id)
environment=$(call POST environments -d '{"name":"curl example"}' | id)
session=$(call POST sessions -d '{"agent":"'"$agent"'","environment_id":"'"$environment"'"}' | id)
echo "session $session"
call POST "sessions/$session/events" -d '{"events":[{"type":"user.message","content":[{"type":"text","text":"Say hello from a sandbox"}]}]}' >/dev/null
# The stream begins with what comes after it was opened; Last-Event-ID would begin earlier.
# Here the whole history is listed until the session rests.
until call GET "sessions/$session" | grep -q '"status":"idle"'; do sleep 0.1; done
call GET "sessions/$session/events?limit=100"
echo
