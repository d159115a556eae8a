"""Writes tagmill.json and runbook.json, the dashboards that Grafana is given. Run it after changing this file or
docs/runbook.md: python3 dashboards/make.py (`make dashboards`)."""

import json
import pathlib
import re

HERE = pathlib.Path(__file__).parent
RUNBOOK = HERE.parent / "docs" / "runbook.md"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHO = 'job=~"$job", instance=~"$instance"'
RATE = "$__rate_interval"

# The path of a job: the stage in tagmill_stage_seconds, the one that fails jobs and waits for room, and what it does.
STAGES = [
    ("queue", "accept", "Accept", "from published to taken by a worker; then the job is read and its image found"),
    ("fetch", "fetch", "Fetch", "reading the image from its store"),
    ("decode", "decode", "Decode", "decoding the image and fitting it to the model, on threads of its own"),
    ("wait", "batch", "Batch", "waiting for a batch to be full or the window to end, and for the model to be free"),
    ("infer", "tag", "Tag", "running a batch on the device"),
    ("publish", "publish", "Publish", "publishing the result or dead letter and having it confirmed"),
]
# What to look at in the runbook, by alert: panel numbers of the dashboard that is made of it.
ALERTS = re.findall(r"^## (Tagmill\w+)$", RUNBOOK.read_text(), re.M)


def runbook(alert):
    url = f"/d/tagmill-runbook?viewPanel={ALERTS.index(alert) + 1}"
    return [{"title": f"Runbook: {alert}", "url": url, "targetBlank": True}]


def metric(name, **labels):
    """A selector. A value with a bar in it is a choice."""
    pairs = "".join(f', {label}{"=~" if "|" in value else "="}"{value}"' for label, value in labels.items())
    return f"tagmill_{name}{{{WHO}{pairs}}}"


def rate(name, **labels):
    return f"rate({metric(name, **labels)}[{RATE}])"


def quantiles(name, **labels):
    return [(f"p{q}", f"histogram_quantile(0.{q}, sum by (le) ({rate(name + '_bucket', **labels)}))") for q in (50, 95, 99)]


class Board:
    """Panels from left to right, row by row; those of a closed row lie inside it, as Grafana has it."""

    def __init__(self):
        self.panels, self.into, self.number, self.x, self.y, self.height = [], None, 0, 0, 0, 0
        self.into = self.panels

    def place(self, width, height):
        if self.x + width > 24:
            self.x, self.y, self.height = 0, self.y + self.height, 0
        place = {"x": self.x, "y": self.y, "w": width, "h": height}
        self.x, self.height = self.x + width, max(self.height, height)
        self.number += 1
        return place

    def row(self, title, closed):
        self.x, self.y, self.height = 0, self.y + self.height, 0
        row = {"type": "row", "title": title, "collapsed": closed, "gridPos": self.place(24, 1), "id": self.number, "panels": []}
        self.panels.append(row)
        self.into = row["panels"] if closed else self.panels

    def panel(self, kind, title, description, unit, targets, size=(8, 8), instant=False, links=(), custom=None, options=None, defaults=None, mappings=()):
        place = self.place(*size)
        fields = {"unit": unit, "color": {"mode": "palette-classic"}, "mappings": list(mappings), "custom": custom or {}}
        fields.update(defaults or {})
        queries = [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": not instant,
                "instant": instant,
                "format": "table" if kind == "table" else "heatmap" if kind == "heatmap" else "time_series",
            }
            for index, (legend, expression) in enumerate(targets)
        ]
        panel = {
            "id": self.number,
            "type": kind,
            "title": title,
            "description": description,
            "datasource": SOURCE,
            "gridPos": place,
            "targets": queries,
            "fieldConfig": {"defaults": fields, "overrides": []},
            "options": options or {},
            "links": list(links),
        }
        self.into.append(panel)
        return panel

    def stat(self, title, description, unit, targets, text="value", **more):
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
            "textMode": text,
            "graphMode": "area" if text == "value" else "none",
            "colorMode": "value",
            "justifyMode": "auto",
        }
        return self.panel("stat", title, description, unit, targets, size=(4, 5), options=options, **more)

    def lines(self, title, description, unit, targets, stacked=False, **more):
        custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 60 if stacked else 10, "showPoints": "never", "spanNulls": False}
        custom["stacking"] = {"mode": "normal" if stacked else "none", "group": "A"}
        options = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}}
        defaults = {"min": 0, **more.pop("defaults", {})}
        return self.panel("timeseries", title, description, unit, targets, custom=custom, options=options, defaults=defaults, **more)


def steps(*pairs):
    return {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in pairs]}}


def bound():
    """What holds most of the jobs in hand, in words. The jobs in a stage are the seconds spent there per second."""

    def seconds(stage):
        return f"sum({rate('stage_seconds_sum', stage=stage)})"

    candidates = {
        "storage": seconds("fetch"),
        # With those that are read and wait for a decoder.
        "decoding": f"{seconds('decode')} + sum({rate('backpressure_seconds_total', stage='fetch')})",
        "the model": f"{seconds('wait')} + {seconds('infer')}",
        "NATS": seconds("publish"),
        # For suspects to be through, or for models to be loaded.
        "waiting to come in": f"sum({rate('backpressure_seconds_total', stage='accept')})",
        # Nothing waits in the stream: the fleet does what it is given.
        "nothing": f"(max({metric('backlog_jobs')}) < bool 1) * 1e6",
    }
    named = [f'label_replace({query}, "bound", "{name}", "", "")' for name, query in candidates.items()]
    return f"topk(1, {' or '.join(named)})"


def fleet(board):
    board.row("Fleet: is it keeping up, how long until it is done, what bounds it", False)
    tagged = f"sum({rate('images_tagged_total')})"
    answered = f"sum({rate('jobs_total', outcome='tagged|rejected')})"
    backlog = f"max({metric('backlog_jobs')})"
    board.stat("Images per second", "Images whose result was confirmed, all workers together.", "cps", [("images", tagged)])
    board.stat(
        "Backlog", "Jobs in the stream that no worker has taken yet. Every worker tells the same number: the largest is shown.",
        "short", [("jobs", backlog)], links=runbook("TagmillFallingBehind"),
    )
    board.stat(
        "Time to empty", "How long the backlog takes at the present speed if no more jobs come. Empty while nothing is answered.",
        "s", [("time", f"{backlog} / ({answered} > 0)")], links=runbook("TagmillFallingBehind"), defaults={"noValue": "never, at this speed"},
    )
    board.stat(
        "Bounded by",
        "What holds most of the jobs in hand: storage (being read), decoding, the model (waiting for a batch, or in one), NATS "
        "(being published). `nothing`: the stream is empty, and the fleet does what it is given.",
        "short", [("{{bound}}", bound())], text="name", instant=True, links=runbook("TagmillFallingBehind"),
    )
    board.stat(
        "Oldest job", "Age of the oldest job that is not answered.", "s", [("age", f"max({metric('oldest_job_seconds')})")],
        links=runbook("TagmillOldestJobTooOld"), defaults=steps(("green", None), ("orange", 900), ("red", 3600)),
    )
    board.stat(
        "Workers ready", "Workers that take jobs. /readyz of the others says what they wait for.", "short",
        [("ready", f"sum({metric('ready')})")], links=runbook("TagmillNoWorkerReady"), defaults=steps(("red", None), ("green", 1)),
    )
    board.lines(
        "In and out", "Jobs that come in (what was answered, plus what the backlog grew by) and that are answered. Out over in: the fleet catches up.",
        "cps", [("in", f"clamp_min({answered} + max(deriv({metric('backlog_jobs')}[{RATE}])), 0)"), ("out", answered), ("of them tagged", tagged)],
        links=runbook("TagmillFallingBehind"),
    )
    board.lines("Backlog over time", "Jobs not yet taken, and jobs in the workers' hands.", "short",
                [("waiting", backlog), ("in hand", f"sum({metric('inflight_jobs')})"),
                 ("answers not stored", f"sum({metric('waiting_answers')})")], links=runbook("TagmillBacklogGrowsWorkersIdle"))
    board.lines("Job latency", "From accepted by a worker to answered; the wait in the stream comes before (Accept).", "s", quantiles("job_seconds"))
    board.lines(
        "Jobs in hand by stage",
        "How many jobs are in each stage, on average: the widest band is what bounds the fleet. A stage that waits for the next "
        "is counted apart, as waiting for room; with accept, so is waiting to come in, and for a model to be loaded.",
        "short",
        [("{{stage}}", f"sum by (stage) ({rate('stage_seconds_sum', stage='fetch|decode|wait|infer|publish')})"),
         ("waiting for room after {{stage}}", f"sum by (stage) ({rate('backpressure_seconds_total', stage='accept|fetch|decode')})")],
        stacked=True,
    )
    board.lines("Model busy", "Share of the time in which a worker's model runs a batch. Near 100 %: it is the model that bounds it.",
                "percentunit", [("{{instance}}", f"sum by (instance) ({rate('stage_seconds_sum', stage='infer')}) / (sum by (instance) ({rate('batch_size_sum')}) / sum by (instance) ({rate('batch_size_count')}))")])
    board.lines("Images per second by worker", "Replicas of one kind should be alike.", "cps", [("{{instance}}", f"sum by (instance) ({rate('images_tagged_total')})")])
    board.lines("Workers", "Workers that answer Prometheus, that are ready, and that have NATS.", "short",
                [("there", f"count({metric('ready')})"), ("ready", f"sum({metric('ready')})"), ("connected to NATS", f"sum({metric('nats_connected')})")],
                links=runbook("TagmillWorkerNotReady"))
    board.lines("Processor", "Cores in use, by worker.", "short", [("{{instance}}", f"rate(process_cpu_seconds_total{{{WHO}}}[{RATE}])")])
    alerts = board.panel("alertlist", "Alerts", "Alerts of tagmill that fire or are about to.", "short", [], size=(8, 8),
                         options={"alertName": "Tagmill", "datasource": "prometheus", "groupMode": "default", "maxItems": 20, "sortOrder": 3,
                                  "viewMode": "list", "stateFilter": {"firing": True, "pending": True, "error": False, "noData": False, "normal": False}})
    alerts["links"] = [{"title": "Runbook", "url": "/d/tagmill-runbook", "targetBlank": True}]


def stages(board):
    for timed, stage, title, does in STAGES:
        board.row(f"{title}: {does}", True)
        board.lines(f"{title}: time per job", f"Seconds a job spends {does.split(';')[0]}.", "s", quantiles("stage_seconds", stage=timed))
        board.lines(f"{title}: per second, and waiting for room",
                    f"What passes this stage per second; and the seconds per second it waits for room in the next one, which is then the slower one.",
                    "short",
                    [("per second", f"sum({rate('stage_seconds_count', stage=timed)})"),
                     *([("waiting for room", f"sum({rate('backpressure_seconds_total', stage=stage)})")] if stage in ("accept", "fetch", "decode") else [])])
        board.lines(f"{title}: failures", "Jobs this stage failed, by code; they end as dead letters or are tried again.", "cps",
                    [("{{code}}", f"sum by (code) ({rate('failures_total', stage=stage)}) or on () vector(0)")],
                    links=runbook("TagmillStorageFailing" if stage == "fetch" else "TagmillInferenceFailing" if stage == "tag" else "TagmillDeadLetters"))


def batching(board):
    board.row("Batching", True)
    board.panel("heatmap", "Batch size distribution", "Images per batch: how many batches of each size there were.", "short",
                [("{{le}}", f"sum by (le) (increase({metric('batch_size_bucket')}[{RATE}]))")],
                options={"calculate": False, "cellGap": 1, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64}, "yAxis": {"unit": "short", "decimals": 0},
                         "legend": {"show": True}, "tooltip": {"mode": "single", "yHistogram": False}, "filterValues": {"le": 1e-9}, "rowsFrame": {"layout": "auto"}})
    size = f"sum by (model) ({rate('batch_size_sum')}) / sum by (model) ({rate('batch_size_count')})"
    board.lines("Fill", "Mean size of batches by the size they may have. Low while there is a backlog: what comes before cannot keep the model busy.",
                "percentunit", [("{{model}}", f"({size}) / max by (model) ({metric('batch_limit')})")])
    board.lines("Why batches were closed", "full: as large as may be. idle: nothing else was on its way. window: the time was over. drain: the worker stops.",
                "cps", [("{{flush}}", f"sum by (flush) ({rate('batches_total')})")], stacked=True)
    board.lines("Batch limit", "Images a batch may have now, the smallest and largest over the workers; it falls when one does not fit the device.",
                "short", [("{{model}}, least", f"min by (model) ({metric('batch_limit')})"), ("{{model}}, most", f"max by (model) ({metric('batch_limit')})")], links=runbook("TagmillModelOutOfMemory"))
    board.lines("Mean batch size", "Images per batch.", "short", [("{{model}}", size)])
    board.lines("Batches that did not fit", "Batches that ran out of the device's memory and were made smaller.", "short",
                [("{{model}} on {{instance}}", f"sum by (model, instance) (increase({metric('out_of_memory_total')}[{RATE}]))")], links=runbook("TagmillModelOutOfMemory"))


def memory(board):
    board.row("Memory and devices", True)
    process = f"process_resident_memory_bytes{{{WHO}}}"
    board.lines("Resident memory", "What each worker has, and the limit at which it is ended.", "bytes",
                [("{{instance}}", process), ("limit", f"min({metric('memory_limit_bytes')})")], links=runbook("TagmillMemoryNearLimit"))
    board.lines("Resident by limit", "Share of the memory a worker may have.", "percentunit",
                [("{{instance}}", f"{process} / on (job, instance) {metric('memory_limit_bytes')}")], links=runbook("TagmillMemoryNearLimit"))
    board.lines("Reserved against budget", "What images in flight have reserved, by worker, and what they may. At the budget, reading waits.", "bytes",
                [("{{instance}}", metric("memory_reserved_bytes")), ("budget", f"min({metric('memory_budget_bytes')})")])
    board.lines("Device memory", "In use and there, by device, whoever uses it. Empty without an NVIDIA device.", "bytes",
                [("{{instance}} device {{device}}", metric("device_memory_used_bytes")), ("{{instance}} device {{device}}, total", metric("device_memory_total_bytes"))],
                links=runbook("TagmillDeviceMemoryNearLimit"))
    board.lines("Device utilization", "Share of the time in which the device computed. Empty without an NVIDIA device.", "percentunit",
                [("{{instance}} device {{device}}", metric("device_utilization_ratio"))])
    board.lines("Open files", "Descriptors by worker: connections, mostly.", "short", [("{{instance}}", f"process_open_fds{{{WHO}}}")])


def failures(board):
    board.row("Failures", True)
    board.lines("Failures by code", "Every failure, whatever became of the job.", "cps", [("{{stage}}: {{code}}", f"sum by (stage, code) ({rate('failures_total')})")],
                stacked=True, links=runbook("TagmillDeadLetters"))
    board.lines("Dead letters by code", "Jobs that were given up.", "cps", [("{{code}}", f"sum by (code) ({rate('dead_letters_total')})")],
                stacked=True, links=runbook("TagmillDeadLetters"))
    board.lines("Answers by outcome", "tagged, rejected (a dead letter), retried (back into the queue).", "cps",
                [("{{source}}: {{outcome}}", f"sum by (source, outcome) ({rate('jobs_total')})")], stacked=True)
    board.lines("Share given up", "Dead letters by jobs answered for good.", "percentunit",
                [("share", f"sum({rate('dead_letters_total')}) / (sum({rate('jobs_total', outcome='tagged|rejected')}) > 0)")], links=runbook("TagmillDeadLetters"))
    board.lines("Redeliveries", "Jobs that came with an earlier delivery.", "cps", [("{{instance}}", f"sum by (instance) ({rate('redeliveries_total')})")], links=runbook("TagmillRedeliveries"))
    board.lines("Starts", "How long each worker has run: a fall to zero is a restart.", "s", [("{{instance}}", f"time() - process_start_time_seconds{{{WHO}}}")], links=runbook("TagmillWorkersCrash"))
    board.row("What runs", True)
    table = {"showHeader": True, "cellHeight": "sm"}
    board.panel("table", "Models", "Every loaded model, its hash and what it really runs on.", "short", [("", f"sum by (instance, model, sha256, device) ({metric('model_info')})")],
                size=(14, 8), instant=True, options=table)
    board.panel("table", "Versions", "Of tagmill and ONNX Runtime.", "short", [("", f"sum by (instance, version, onnxruntime) ({metric('build_info')})")], size=(10, 8), instant=True, options=table)


def variable(name):
    query = "label_values(tagmill_build_info, job)" if name == "job" else 'label_values(tagmill_build_info{job=~"$job"}, instance)'
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": SOURCE, "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "hide": 0, "regex": "", "options": [],
    }


def dashboard(title, uid, panels, variables, links, refresh):
    return {
        "title": title, "uid": uid, "tags": ["tagmill"], "schemaVersion": 39, "version": 1, "editable": False, "graphTooltip": 1,
        "time": {"from": "now-30m", "to": "now"}, "timezone": "browser", "refresh": refresh, "templating": {"list": variables},
        "annotations": {"list": []}, "links": links, "panels": panels,
    }


def write(name, content):
    (HERE / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main():
    board = Board()
    for part in (fleet, stages, batching, memory, failures):
        part(board)
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "", "refresh": 1, "hide": 0,
              "multi": False, "includeAll": False, "current": {}, "options": []}
    links = [{"title": "Runbook", "type": "link", "url": "/d/tagmill-runbook", "icon": "doc", "targetBlank": True, "tags": [], "asDropdown": False, "includeVars": False, "keepTime": False}]
    write("tagmill.json", dashboard("tagmill", "tagmill", board.panels, [source, variable("job"), variable("instance")], links, "5s"))

    text = RUNBOOK.read_text()
    introduction, *sections = re.split(r"^## ", text, flags=re.M)
    sheets = [(section.split("\n", 1)[0], section.split("\n", 1)[1].strip()) for section in sections]
    sheets.append(("How to ask", introduction.split("\n", 1)[1].strip()))
    panels = [
        {"id": number, "type": "text", "title": title, "gridPos": {"x": 12 * ((number - 1) % 2), "y": 9 * ((number - 1) // 2), "w": 12, "h": 9},
         "options": {"mode": "markdown", "content": body}, "description": "", "transparent": False}
        for number, (title, body) in enumerate(sheets, 1)
    ]
    back = [{"title": "tagmill", "type": "link", "url": "/d/tagmill", "icon": "dashboard", "targetBlank": False, "tags": [], "asDropdown": False, "includeVars": False, "keepTime": False}]
    write("runbook.json", dashboard("tagmill: runbook", "tagmill-runbook", panels, [], back, ""))


main()
