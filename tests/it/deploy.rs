//! docker-compose.yml and .env.example contain every setting and no other.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::prometheus::program;
use crate::support::repository;
use crate::support::worker::tagmill;

/// Variables that the image sets, that are specific to a worker, or that name a file which would have to be mounted.
const NOT_PASSED_ON: [&str; 6] = [
    "TAGMILL_NAME",
    "TAGMILL_LISTEN",
    "TAGMILL_MODELS_CACHE",
    "TAGMILL_ENGINE_CACHE",
    "TAGMILL_NATS_CREDS",
    "TAGMILL_NATS_CA",
];

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect("it is in the repository")
}

/// The variable's name at the start of a text, if there is one.
fn variable(text: &str) -> Option<&str> {
    let end = text
        .find(|next: char| !next.is_ascii_uppercase() && !next.is_ascii_digit() && next != '_')
        .unwrap_or(text.len());
    Some(&text[..end]).filter(|name| name.len() > 1)
}

/// Names and defaults in .env.example.
fn documented(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix('#')?.split_once('=')?;
        (variable(name) == Some(name)).then_some((name, value))
    })
}

#[test]
fn every_flag_of_a_worker_can_be_set_in_the_environment_file() {
    let help = tagmill(&["worker", "--help"]).output().expect("it runs").stdout;
    let help = String::from_utf8(help).expect("text");
    let flags: BTreeSet<_> =
        help.match_indices("[env: ").filter_map(|(at, found)| variable(&help[at + found.len()..])).collect();
    assert!(flags.contains("TAGMILL_STORE") && flags.len() > 20, "{flags:?}");
    let (compose, example) = (read("docker-compose.yml"), read(".env.example"));
    let documented: BTreeSet<_> = documented(&example).map(|(name, _)| name).collect();
    for flag in flags.iter().filter(|flag| !NOT_PASSED_ON.contains(flag)) {
        assert!(compose.contains(&format!("\n    {flag}:")), "docker-compose.yml does not pass on {flag}");
        assert!(documented.contains(flag), ".env.example does not have {flag}");
    }
}

#[test]
fn the_environment_file_has_every_variable_of_the_compose_file_and_its_default() {
    let (compose, example) = (read("docker-compose.yml"), read(".env.example"));
    let documented: Vec<_> = documented(&example).collect();
    let mut used = BTreeSet::new();
    for (at, found) in compose.match_indices("${") {
        let rest = &compose[at + found.len()..];
        let name = variable(rest).expect("a name");
        used.insert(name);
        assert!(documented.iter().any(|(known, _)| *known == name), ".env.example does not have {name}");
        let default = rest[name.len()..].strip_prefix(":-").and_then(|text| text.split('}').next());
        // Settings of Grafana's account show no default, and devices have one for each kind of worker.
        let shown = documented.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        assert!(
            !default.unwrap_or_default().contains('$'),
            "{name}: version 1 of compose knows no default in a default"
        );
        if !name.starts_with("GRAFANA_") && name != "TAGMILL_DEVICE" {
            assert_eq!(default, Some(shown), "the default of {name}");
        }
    }
    for (name, _) in documented {
        let passed = compose.contains(&format!("\n    {name}:"));
        assert!(used.contains(name) || passed, "docker-compose.yml does not know {name}");
    }
}

#[test]
fn the_streams_are_made_before_anything_publishes() {
    let compose = read("docker-compose.yml");
    assert!(
        compose.contains("    init: {condition: service_completed_successfully}"),
        "workers and submit wait for it"
    );
    assert!(compose.contains("    command: [\"init\"]\n    restart: on-failure"), "and it ends");
    let pods = read("deploy/kubernetes/base/deployment.yaml");
    let (before, _) = pods.split_once("\n      containers:").expect("the worker");
    assert!(before.contains("initContainers:") && before.contains("args: [init]"), "{before}");
}

#[test]
fn ports_are_open_to_this_machine_alone() {
    let compose = read("docker-compose.yml");
    let published: Vec<_> = compose.lines().filter(|line| line.contains("ports:")).collect();
    assert_eq!(published.len(), 4, "{published:?}");
    for line in published {
        assert!(line.contains(r#"["127.0.0.1:${"#), "{line}");
    }
}

#[test]
fn prometheus_can_read_its_configuration() {
    let check = Command::new(program("promtool"))
        .args(["check", "config", "--syntax-only"])
        .arg(repository("dashboards/prometheus.yml"))
        .output()
        .expect("it runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
