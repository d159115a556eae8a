#!/usr/bin/env bash
# Renders what is under deploy/kubernetes and checks it against the published schemas: Kubernetes' own from the Python package
# kubernetes-validate, KEDA's and Prometheus operator's from the npm packages @kubernetes-models/*. Needs kubectl 1.27 or
# later, Python 3 with venv, and npm.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.34
tools=$PWD/.runtime/kubernetes

if [[ ! -x $tools/bin/kubernetes-validate || ! -d $tools/node_modules/@kubernetes-models/keda ]]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
    (cd "$tools" && npm install --silent --no-save --prefix . @kubernetes-models/keda@2.0.0 @kubernetes-models/prometheus-operator@6.0.0 js-yaml@4.1.0)
fi

# Beside the packages, where it finds them.
cat >"$tools/check.mjs" <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { loadAll } from "js-yaml";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const models = { "keda.sh/v1alpha1": keda, "monitoring.coreos.com/v1": monitoring };
for (const document of loadAll(readFileSync(process.argv[2], "utf8"))) {
  const { apiVersion, kind, metadata } = document;
  if (metadata.namespace === undefined && kind !== "Namespace") throw new Error(`${kind} has no namespace`);
  if (!models[apiVersion]) continue;
  new models[apiVersion][kind](document).validate();
  console.log(`passed for resource ${kind.toLowerCase()}/${metadata.name} against ${apiVersion}`);
}
JAVASCRIPT

status=0
for target in base overlays/gpu overlays/keda; do
    rendered=$(mktemp)
    kubectl kustomize "deploy/kubernetes/$target" >"$rendered"
    echo "== $target"
    "$tools/bin/kubernetes-validate" --kubernetes-version "$version" --strict --no-warn "$rendered" | sed 's/^INFO [^ ]* //' || status=1
    node "$tools/check.mjs" "$rendered" || status=1
    rm -f "$rendered"
done
exit "$status"
