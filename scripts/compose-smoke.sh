#!/usr/bin/env bash
# docker-compose.yml as a user runs it, from the build to the teardown, in a project and on ports of its own: health, tags of
# the samples from the folder and from the bucket, targets, alerts, dashboards, and scaling to three workers and back under
# load without losing a job.
# Needs docker with compose, bash, and curl 7.75 or later. SKIP=grafana leaves services out, JOBS=N is the load,
# COMPOSE=docker-compose takes version 1.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${JOBS:-2000}
skip=" ${SKIP:-} "
export COMPOSE_PROJECT_NAME=tagmill-smoke DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
# Free ports, the defaults for all else.
export NATS_PORT=0 S3_PORT=0 PROMETHEUS_PORT=0 GRAFANA_PORT=0
if [[ -n ${COMPOSE:-} ]]; then read -ra compose <<<"$COMPOSE"
elif docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(--env-file .env.example)
key=$(sed -n 's/^#S3_ACCESS_KEY_ID=//p' .env.example) secret=$(sed -n 's/^#S3_SECRET_ACCESS_KEY=//p' .env.example)

services=()
for service in nats garage worker prometheus grafana; do
    if [[ $skip == *" $service "* ]]; then echo "left out: $service"; else services+=("$service"); fi
done
work=$(mktemp -d)

finish() {
    status=$?
    trap - EXIT INT TERM
    if ((status != 0)); then
        "${compose[@]}" ps -a || true
        "${compose[@]}" logs --tail 30 || true
    fi
    "${compose[@]}" --profile submit down --volumes --remove-orphans --timeout 40 >/dev/null 2>&1 ||
        "${compose[@]}" down --volumes --remove-orphans >/dev/null 2>&1 || true
    rm -rf "$work"
    ((status == 0)) && echo "smoke: passed in $SECONDS s" || echo "smoke: FAILED" >&2
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }
fail() { echo "smoke: $*" >&2; exit 1; }

await() { # SECONDS WHAT COMMAND...: until the command succeeds
    local patience=$1 what=$2 until=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < until)) || fail "waited $patience s in vain: $what"
        sleep 0.5
    done
}

healthy() { # every container of the service runs and is healthy
    local containers
    containers=$("${compose[@]}" ps -q "$1")
    [[ -n $containers ]] || return 1
    # shellcheck disable=SC2086
    ! docker inspect --format '{{.State.Health.Status}}' $containers | grep -qv '^healthy$'
}

query() { # a number out of Prometheus
    "${compose[@]}" exec -T prometheus promtool query instant http://127.0.0.1:9090 "$1" | sed -n 's/^.* => \([^ ]*\) @.*/\1/p'
}
equals() { [[ $(query "$1") == "$2" ]]; }
over() { awk -v value="$(query "$1")" -v least="$2" 'BEGIN { exit !(value != "" && value > least) }'; }
workers() { "${compose[@]}" up -d --no-recreate --scale "worker=$1" worker >/dev/null 2>&1; }
address() { "${compose[@]}" port "$1" "$2"; }
submit() { "${compose[@]}" run --rm -T submit "$@"; }

say "build"
"${compose[@]}" build worker >"$work/build" 2>&1 || { tail -n 30 "$work/build"; fail "the image was not built"; }
image=$("${compose[@]}" config | sed -n 's/^ *image: \(tagmill:[^ ]*\)$/\1/p' | grep -v cuda | head -n 1)
say "image $image: $(docker image inspect --format '{{.Size}}' "$image" | awk '{ printf "%.0f MB", $1 / 1e6 }')"
tools=$(docker run --rm --entrypoint sh "$image" -c 'command -v cc gcc g++ clang make cmake cargo rustc python3 pip || true')
[[ -z $tools ]] || fail "the image has $tools"
[[ $(docker image inspect --format '{{.Config.User}}' "$image") == 65532:65532 ]] || fail "the image runs as root"

"${compose[@]}" up -d "${services[@]}" >"$work/up" 2>&1 || { cat "$work/up"; fail "it does not start"; }
for service in "${services[@]}"; do
    await 120 "$service is healthy" healthy "$service"
done
say "healthy: ${services[*]}"

"${compose[@]}" exec -T nats wget -qO- 'http://127.0.0.1:8222/jsz?config=1' | grep -q '"sync_always": *true' ||
    fail "NATS confirms messages before they are on disk"
submit >"$work/folder" 2>&1 || { cat "$work/folder"; fail "the samples were not tagged"; }
grep -q '10 tagged, 0 failed' "$work/folder" || { cat "$work/folder"; fail "not every sample was tagged"; }
grep -q '^blue-ocean.webp *.*blue' "$work/folder" || { cat "$work/folder"; fail "the sea is not blue"; }
say "ten samples from the folder"

bucket=http://$(address garage 3900)/images
for sample in samples/*.jpg; do
    curl -fsS --aws-sigv4 aws:amz:garage:s3 --user "$key:$secret" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        --upload-file "$sample" "$bucket/smoke/${sample##*/}"
    echo "s3://images/smoke/${sample##*/}"
done >"$work/keys"
submit - <"$work/keys" >"$work/bucket" 2>&1 || { cat "$work/bucket"; fail "the bucket's images were not tagged"; }
grep -q "$(wc -l <"$work/keys") tagged, 0 failed" "$work/bucket" || { cat "$work/bucket"; fail "not every object was tagged"; }
say "$(wc -l <"$work/keys") from the bucket"

await 60 "Prometheus scrapes one worker" equals 'sum(up{job="tagmill"})' 1
await 60 "its metrics are there" over 'sum(tagmill_images_tagged_total)' 10
[[ $("${compose[@]}" exec -T prometheus promtool query instant http://127.0.0.1:9090 'count(tagmill_memory_limit_bytes == 3221225472)') == *"=> 1 "* ]] ||
    fail "the worker does not know its memory limit"
"${compose[@]}" exec -T prometheus promtool check rules /etc/prometheus/alerts.yml >/dev/null || fail "the alert rules are broken"
say "scraped, limits and alert rules as they should be"

if [[ $skip != *" grafana "* ]]; then
    grafana=http://$(address grafana 3000)
    for uid in tagmill tagmill-runbook; do
        await 60 "dashboard $uid" curl -fsS "$grafana/api/dashboards/uid/$uid"
    done
    await 60 "Grafana asks Prometheus" sh -c "curl -fsS '$grafana/api/datasources/proxy/uid/prometheus/api/v1/query?query=tagmill_ready' | grep -q '\"tagmill_ready\"'"
    say "dashboards provisioned, data behind them"
fi

began=$(date +%s)
for ((i = 0; i < jobs; i++)); do
    if ((i % 2)); then echo "file:///images/photo-temple.jpg"; else echo "s3://images/smoke/photo-flower.jpg"; fi
done | awk '{ printf "{\"id\":\"%d\",\"image\":\"%s\"}\n", NR, $0 }' >"$work/load"
submit - <"$work/load" >"$work/loaded" 2>&1 &
load=$!
await 60 "a backlog" over 'max(tagmill_backlog_jobs)' 10
workers 3
await 120 "three workers are ready and scraped" equals 'sum(tagmill_ready)' 3
await 60 "all three tag" equals 'count(tagmill_images_tagged_total > 0)' 3
over 'max(tagmill_backlog_jobs)' 0 || fail "the load was over before three workers were at it: raise JOBS"
# It does not wait for the answer, which comes after the whole load.
head -n 1 "$work/keys" | "${compose[@]}" run --rm -T --entrypoint tagmill submit submit - >"$work/one" 2>&1 ||
    { cat "$work/one"; fail "a submit beside another failed"; }
[[ $("${compose[@]}" ps -q worker | wc -l) == 3 ]] || fail "a submit changes the number of workers"
over 'max(tagmill_backlog_jobs)' 0 || fail "the load was over before workers are taken away from it: raise JOBS"
say "three workers under load, backlog $(query 'max(tagmill_backlog_jobs)')"
workers 1
await 60 "one worker is left" equals 'sum(up{job="tagmill"})' 1
wait "$load" || { tail -n 5 "$work/loaded"; fail "jobs were lost or failed"; }
grep -q "^$jobs tagged, 0 failed" "$work/loaded" || { tail -n 5 "$work/loaded"; fail "not every job was answered"; }
say "$(grep "^$jobs tagged" "$work/loaded"), while workers came and went"
codes=$(docker events --since "$began" --until "$(date +%s)" --filter event=die --filter "label=com.docker.compose.service=worker" \
    --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format '{{.Actor.Attributes.exitCode}}')
[[ $(wc -w <<<"$codes") == 2 && $codes != *[1-9]* ]] || fail "the two removed workers ended with: $codes"
await 60 "an empty queue" equals 'max(tagmill_backlog_jobs)' 0
[[ -z $(query 'ALERTS{alertstate="firing", severity="critical"}') ]] || fail "a critical alert fires"
