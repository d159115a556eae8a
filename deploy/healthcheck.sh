#!/bin/bash
# Asks the worker in this container for PATH (/healthz, /readyz) and shows its answer; exits 0 if that is 200.
# In bash alone: the image has no HTTP client.
set -u
path=${1:-/healthz}
exec 3<>"/dev/tcp/127.0.0.1/${TAGMILL_LISTEN##*:}" || exit 1
printf 'GET %s HTTP/1.0\r\n\r\n' "$path" >&3
read -r _ status _ <&3
while IFS= read -r line && [[ $line != $'\r' ]]; do :; done <&3
cat <&3
[[ $status == 200 ]]
