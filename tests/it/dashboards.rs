//! Dashboards and alerts, on the data of real workers.

use std::collections::HashSet;
use std::process::Command;

use async_nats::HeaderMap;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::prometheus::{Prometheus, program};
use crate::support::worker::Worker;
use crate::support::{repository, until};

/// Panels and alerts without data unless there is an NVIDIA device.
const NEED_A_DEVICE: [&str; 3] = ["Device memory", "Device utilization", "TagmillDeviceMemoryNearLimit"];

/// Grafana's units that are used.
const UNITS: [&str; 5] = ["short", "s", "bytes", "percentunit", "cps"];

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect("it is in the repository")
}

fn dashboard(path: &str) -> Value {
    serde_json::from_str(&read(path)).expect("JSON")
}

/// Every panel, including those of closed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let rows = dashboard["panels"].as_array().expect("panels");
    let all =
        rows.iter().flat_map(|panel| std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten()));
    all.filter(|panel| panel["type"] != "row").collect()
}

/// Every query of a dashboard, with its panel's title.
fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let mut queries = Vec::new();
    for panel in panels(dashboard) {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().into_iter().flatten();
        queries.extend(targets.map(|target| (title, target["expr"].as_str().expect("a query"))));
    }
    queries
}

/// Names of alerts, in the order of the file.
fn alerts() -> Vec<String> {
    let rules = read("dashboards/alerts.yml");
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect()
}

/// A query without its comparisons, so that it has data while no alert fires.
fn without_thresholds(query: &str) -> String {
    let words: Vec<_> = query.split_whitespace().collect();
    let is_comparison = |index: usize| matches!(words.get(index), Some(&(">" | "<" | ">=")));
    let kept = (0..words.len()).filter(|&index| !is_comparison(index) && (index == 0 || !is_comparison(index - 1)));
    kept.map(|index| words[index]).collect::<Vec<_>>().join(" ")
}

/// Publishes jobs of every outcome.
async fn load(client: &Client, round: usize) {
    client.submit_samples_from(round * 24, round * 24 + 24).await;
    client.submit(&format!("missing-{round}"), "missing.png").await;
    client.submit(&format!("corrupt-{round}"), "data:image/png;base64,iVBORw0KGgo=").await;
    client.publish("tagmill.jobs", HeaderMap::new(), "no job").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_alert_has_data_from_workers_under_load() {
    let nats = NatsServer::start();
    let workers = [Worker::start(&nats), Worker::start(&nats)];
    let client = Client::connect(&nats).await;
    let prometheus = Prometheus::start(&workers.each_ref().map(Worker::address));

    let board = dashboard("dashboards/tagmill.json");
    let mut waiting: Vec<(String, String)> = Vec::new();
    for (title, query) in queries(&board) {
        let query = query.replace("$__rate_interval", "5s").replace("$job", ".+").replace("$instance", ".+");
        waiting.push((title.to_owned(), query));
    }
    let rules = until("the alerts' evaluation", || async {
        let rules = prometheus.get("rules", &[]).await;
        let groups = rules["data"]["groups"].as_array()?.clone();
        let rules: Vec<Value> =
            groups.iter().flat_map(|group| group["rules"].as_array().cloned().expect("rules")).collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    })
    .await;
    assert_eq!(rules.len(), alerts().len());
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        let name = rule["name"].as_str().expect("a name").to_owned();
        waiting.push((name, without_thresholds(rule["query"].as_str().expect("a query"))));
    }
    waiting.retain(|(name, _)| !NEED_A_DEVICE.contains(&name.as_str()));

    // Data arrive within some seconds of load. A query without data after that selects something that does not exist.
    let (mut round, began) = (0, std::time::Instant::now());
    while !waiting.is_empty() {
        assert!(began.elapsed() < crate::support::PATIENCE, "no data for {waiting:#?}");
        load(&client, round).await;
        round += 1;
        let mut without = Vec::new();
        for (name, query) in waiting {
            if prometheus.query(&query).await.is_empty() {
                without.push((name, query));
            }
        }
        waiting = without;
        client.queue_is_empty().await;
    }

    // The values are correct.
    let images = u32::try_from(24 * round).expect("a few");
    until("the images to be counted", || async {
        let counted = prometheus.query("sum(tagmill_images_tagged_total)").await;
        (counted == [f64::from(images)]).then_some(())
    })
    .await;
    let firing = prometheus.query(r#"ALERTS{alertstate="firing", severity="critical"}"#).await;
    assert!(firing.is_empty(), "all is well, and critical alerts fire");
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_ask_for_metrics_that_workers_have() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit_samples(10).await;
    client.results(10).await;
    let (_, exported) = worker.get("/metrics").await;
    let types: HashSet<&str> =
        exported.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let board = dashboard("dashboards/tagmill.json");
    let runbook = runbook_queries();
    let runbook = runbook.iter().map(|query| ("the runbook", query.as_str()));
    for (title, query) in queries(&board).into_iter().chain(runbook) {
        for (name, _) in selectors(query) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let known = types.contains(family) || family.starts_with("tagmill_device_");
            // A series of failures exists only after the first failure.
            assert!(known || family == "tagmill_failures_total", "{title}: {name}");
        }
    }
}

/// The queries in the runbook.
fn runbook_queries() -> Vec<String> {
    let runbook = read("docs/runbook.md").replace('\n', " ");
    let spans = runbook.split('`').skip(1).step_by(2);
    spans.filter(|span| span.contains("tagmill_") || span.contains("{job=")).map(str::to_owned).collect()
}

#[test]
fn queries_of_the_runbook_can_be_asked() {
    let queries = runbook_queries();
    assert!(queries.len() > 15, "{queries:?}");
    let rules = queries
        .iter()
        .enumerate()
        .map(|(number, query)| serde_json::json!({"record": format!("q{number}"), "expr": query}));
    let rules = serde_json::json!({"groups": [{"name": "runbook", "rules": rules.collect::<Vec<_>>()}]});
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rules.to_string()).expect("it is written");
    let check = Command::new(program("promtool")).args(["check", "rules"]).arg(file.path()).output().expect("it runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

/// Metrics that a query selects, each with the text after its name.
fn selectors(query: &str) -> Vec<(&str, &str)> {
    let begins = query.match_indices(['t', 'p']).map(|(at, _)| at).filter(|&at| {
        let fresh = at == 0 || !query[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        fresh && ["tagmill_", "process_"].iter().any(|prefix| query[at..].starts_with(prefix))
    });
    let parts = begins.map(|at| {
        let length = query[at..].find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(query.len() - at);
        query[at..].split_at(length)
    });
    parts.collect()
}

/// The rules of Grafana's own linter for dashboards, by their names there.
#[test]
fn the_dashboard_keeps_to_the_linters_rules() {
    let board = dashboard("dashboards/tagmill.json");
    let variables = board["templating"]["list"].as_array().expect("variables");
    let variable = |name: &str| variables.iter().find(|variable| variable["name"] == name).expect("a variable");

    // template-datasource-rule
    let source = variable("datasource");
    assert_eq!((&source["label"], &source["type"]), (&"Data source".into(), &"datasource".into()));
    // template-job-rule, template-instance-rule, template-on-time-change-reload
    for (name, label) in [("job", "Job"), ("instance", "Instance")] {
        let variable = variable(name);
        assert_eq!((&variable["label"], &variable["type"]), (&label.into(), &"query".into()));
        assert_eq!((&variable["multi"], &variable["allValue"]), (&true.into(), &".+".into()));
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
        assert_eq!(variable["refresh"], 2, "on a change of the time range");
    }
    // uneditable-dashboard
    assert_eq!(board["editable"], false);

    let (mut numbers, mut titles) = (HashSet::new(), HashSet::new());
    for panel in panels(&board) {
        let title = panel["title"].as_str().expect("a title");
        assert!(numbers.insert(panel["id"].as_u64()) && titles.insert(title), "{title}: two have its number or title");
        // panel-title-description-rule, panel-datasource-rule, panel-units-rule, panel-no-targets-rule
        assert!(!title.is_empty() && panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(UNITS.contains(&panel["fieldConfig"]["defaults"]["unit"].as_str().expect("a unit")), "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty() || panel["type"] == "alertlist", "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    for (title, query) in queries(&board) {
        assert!(!selectors(query).is_empty(), "{title}: {query}");
        for (name, rest) in selectors(query) {
            // target-job-rule, target-instance-rule
            assert!(rest.starts_with(r#"{job=~"$job", instance=~"$instance""#), "{title}: {query}");
            // target-counter-agg-rule
            if name.ends_with("_total") {
                let before = &query[..name.as_ptr() as usize - query.as_ptr() as usize];
                assert!(before.ends_with("rate(") || before.ends_with("increase("), "{title}: {query}");
            }
        }
        // target-rate-interval-rule
        for (_, range) in query.match_indices('[').map(|(at, _)| query.split_at(at)) {
            assert!(range.starts_with("[$__rate_interval]"), "{title}: {query}");
        }
    }
}

#[test]
fn every_alert_has_a_tested_rule_and_a_section_in_the_runbook() {
    let tests = Command::new(program("promtool"))
        .args(["test", "rules"])
        .arg(repository("dashboards/alerts_test.yml"))
        .output()
        .expect("it runs");
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));

    let (rules, tests, runbook) =
        (read("dashboards/alerts.yml"), read("dashboards/alerts_test.yml"), read("docs/runbook.md"));
    let sections = dashboard("dashboards/runbook.json");
    let names = alerts();
    assert!(!names.is_empty());
    for name in &names {
        assert!(
            tests.contains(&format!(r#"alertname="{name}", alertstate="firing""#))
                || tests.contains(&format!("alertname: {name}")),
            "{name} is not tested"
        );
        let (_, rule) = rules.split_once(&format!("- alert: {name}\n")).expect("its rule");
        let rule = rule.split("- alert: ").next().expect("its text");
        for part in ["summary:", "description:", "severity:"] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        let (_, number) = rule.split_once("/d/tagmill-runbook?viewPanel=").expect("its link");
        let number: u64 = number.lines().next().expect("a number").parse().expect("a number");
        let panel = panels(&sections).into_iter().find(|panel| panel["id"] == number).expect("its panel");
        assert_eq!(panel["title"], name.as_str(), "the link of {name} leads elsewhere");
        let (_, section) = runbook.split_once(&format!("\n## {name}\n")).expect("its section");
        let section = section.split("\n## ").next().expect("its text").trim();
        assert_eq!(panel["options"]["content"], section, "{name}: run `make dashboards`");
        for part in ["**Means**", "**Look at**", "**Do**"] {
            assert!(section.contains(part), "{name}: {part} is missing");
        }
    }
    let titles: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(titles.len(), names.len(), "a section without an alert");
}

#[test]
fn the_dashboards_links_lead_to_the_runbook() {
    let (board, runbook) = (dashboard("dashboards/tagmill.json"), dashboard("dashboards/runbook.json"));
    let pages: HashSet<_> = panels(&runbook).iter().filter_map(|panel| panel["id"].as_u64()).collect();
    let mut links = 0;
    for panel in panels(&board) {
        for link in panel["links"].as_array().into_iter().flatten() {
            let url = link["url"].as_str().expect("a URL");
            if let Some(number) = url.strip_prefix("/d/tagmill-runbook?viewPanel=") {
                assert!(pages.contains(&number.parse().expect("a number")), "{url}");
                links += 1;
            }
        }
    }
    assert!(links > 10, "{links}");
    assert_eq!(board["links"][0]["url"], "/d/tagmill-runbook");
    assert_eq!(runbook["uid"], "tagmill-runbook");
}
