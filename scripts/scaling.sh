#!/usr/bin/env bash
# How throughput grows with workers where storage is what bounds each of them: 1, 2, 4 and 8 replicas of docker-compose.yml's
# worker read from the bucket over a link that answers after LATENCY seconds and carries RATE images per second to each
# replica's address. Then jobs are counted while replicas come and go. Needs docker with compose, bash, curl 7.75 or later,
# and Python 3. JOBS=N is the load per worker.
set -euo pipefail
cd "$(dirname "$0")/.."

latency=${LATENCY:-0.1} rate=${RATE:-10} per_worker=${JOBS:-150}
image=samples/photo-flower.jpg
export COMPOSE_PROJECT_NAME=tagmill-scaling NATS_PORT=0 S3_PORT=0 PROMETHEUS_PORT=0 GRAFANA_PORT=0
compose=(docker compose --env-file .env.example)
key=$(sed -n 's/^#S3_ACCESS_KEY_ID=//p' .env.example) secret=$(sed -n 's/^#S3_SECRET_ACCESS_KEY=//p' .env.example)
work=$(mktemp -d) proxy=

finish() {
    status=$?
    trap - EXIT INT TERM
    [[ -z $proxy ]] || kill "$proxy" 2>/dev/null || true
    "${compose[@]}" --profile submit down --volumes --remove-orphans >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ready() { # N: so many containers are healthy, and no more there
    local containers
    containers=$("${compose[@]}" ps -q worker)
    [[ $(wc -w <<<"$containers") == "$1" ]] || return 1
    # shellcheck disable=SC2086
    [[ $(docker inspect --format '{{.State.Health.Status}}' $containers | grep -c '^healthy$') == "$1" ]]
}

scale() { # N [nowait]
    "${compose[@]}" up -d --no-recreate --no-deps --scale "worker=$1" worker >/dev/null 2>&1
    [[ ${2:-} == nowait ]] || for _ in {1..240}; do ready "$1" && return || sleep 0.5; done
}

submit() { # COUNT: how many were tagged, how many failed, in how long
    for ((i = 0; i < $1; i++)); do echo '{"image":"photo-flower.jpg"}'; done |
        "${compose[@]}" run --rm --no-deps -T submit - 2>&1 | grep -E "^[0-9]+ tagged, "
}

processor() { awk '/^cpu / { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 }' /proc/stat; }

"${compose[@]}" up -d nats garage prometheus >/dev/null 2>&1
gateway=$(docker network inspect "${COMPOSE_PROJECT_NAME}_default" --format '{{(index .IPAM.Config 0).Gateway}}')
s3=$("${compose[@]}" port garage 3900)
for _ in {1..60}; do
    curl -fsS --aws-sigv4 aws:amz:garage:s3 --user "$key:$secret" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        --upload-file "$image" "http://$s3/images/photo-flower.jpg" 2>/dev/null && break || sleep 0.5
done
python3 scripts/link.py "$gateway" "$s3" "$latency" "$((rate * $(stat -c %s "$image")))" >"$work/port" &
proxy=$!
until [[ -s $work/port ]]; do sleep 0.1; done
export S3_ENDPOINT=http://$gateway:$(cat "$work/port")

echo "reads take $latency s and $rate a second for each worker, $(nproc) cores"
printf '%8s %8s %10s %14s %11s\n' workers jobs seconds 'images/second' 'cores used'
for workers in 1 2 4 8; do
    scale "$workers"
    count=$((workers * per_worker))
    read -r busy all < <(processor)
    line=$(submit "$count")
    read -r busier later < <(processor)
    [[ $line == "$count tagged, 0 failed in "* ]] || { echo "not every job was answered: $line" >&2; exit 1; }
    seconds=$(sed 's/.* in \([0-9.]*\) s/\1/' <<<"$line")
    awk -v w="$workers" -v n="$count" -v s="$seconds" -v c="$(nproc)" -v b=$((busier - busy)) -v a=$((later - all)) \
        'BEGIN { printf "%8d %8d %10.1f %14.1f %11.2f\n", w, n, s, n / s, c * b / a }'
done

echo "8 workers, then 2, then 8, then 1, under load:"
submit 1000 >"$work/churn" &
churn=$!
for workers in 2 8 1; do
    sleep 5
    kill -0 "$churn" 2>/dev/null || { echo "the load was over before $workers" >&2; exit 1; }
    scale "$workers" nowait
done
wait "$churn"
cat "$work/churn"
grep -q '^1000 tagged, 0 failed' "$work/churn"
