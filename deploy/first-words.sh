#!/bin/sh
# First words to the mayor of a hall's town, and her answer; what an orchestrator does, with curl and jq:
#
#   docker compose --file deploy/compose.yaml exec -T town sh -s "Good morning, Mayor!" <deploy/first-words.sh
set -eu
words=${1:-Good morning, Mayor! In one sentence: who are you?}
from_the_hall=/var/lib/gastown/town/container.env
if [ -e "$from_the_hall" ]; then . "$from_the_hall"; fi

# Bearers and bodies come through pipes: an argument of a command can be read by all.
ask() { # ask BEARER CURL-ARGUMENT...
    bearer=$1
    shift
    printf 'Authorization: Bearer %s' "$bearer" | curl --silent --show-error --fail-with-body --header @- "$@"
}

town=${GASTOWN_TOWN_ID}
control=http://127.0.0.1:${GASTOWN_CONTROL_PORT:-8080}
mayor=$(ask "$GASTOWN_CONTAINER_TOKEN" "$GASTOWN_API_URL/api/towns/$town/mayor-id")
id=$(printf '%s' "$mayor" | jq --raw-output .agentId)
request=$(printf '%s' "$mayor" | jq --arg town "$town" --arg words "$words" '{
    agentId, model, smallModel, organizationId, townId: $town, rigId: "mayor-\($town)", role: "mayor", name: "mayor",
    identity: "mayor of \($town)", prompt: $words, gitUrl: "", branch: "", defaultBranch: "",
    envVars: {KILOCODE_TOKEN: .kilocodeToken}}')
ask "$GASTOWN_CONTROL_TOKEN" --output /dev/null --header 'Content-Type: application/json' --data @/dev/fd/3 \
    "$control/agents/start" 3<<REQUEST
$request
REQUEST

after=0
while :; do
    page=$(ask "$GASTOWN_CONTROL_TOKEN" "$control/agents/$id/events?after=$after")
    after=$(printf '%s' "$page" | jq --argjson after "$after" '.events[-1].id // $after')
    printf '%s' "$page" | jq --raw-output --join-output '
        .events[] | select(.event == "message.part.delta").data | select(.field == "text").delta'
    ended=$(printf '%s' "$page" | jq --raw-output '
        [.events[] | select(.event == "session.turn.close").data.reason][0] // empty')
    if [ -n "$ended" ]; then break; fi
    sleep 0.2
done
echo
[ "$ended" = completed ]
