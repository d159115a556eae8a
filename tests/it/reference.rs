//! The README's tables of flags and metrics, and variables in other files, match the program.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command, CommandFactory};
use tagmill::cli::Cli;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::worker::Worker;

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect("it is in the repository")
}

/// Section of the README under this heading, up to the next of its level.
fn section<'a>(readme: &'a str, route: &str) -> &'a str {
    let (_, rest) = readme.split_once(&format!("\n{route}\n")).unwrap_or_else(|| panic!("no section {route}"));
    let level = route.split(' ').next().expect("a level");
    rest.split(&format!("\n{level} ")).next().expect("its text")
}

/// Cells of a section's tables, without the header rows.
fn rows(section: &str) -> Vec<Vec<&str>> {
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// Flags in a section's tables, each with the documented default.
fn documented(section: &str) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    for row in rows(section) {
        let names = row[0].split('`').filter_map(|part| part.strip_prefix("--")?.split(' ').next());
        flags.extend(names.map(|name| (name.to_owned(), row[1].to_owned())));
    }
    flags
}

fn flags(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    shown.filter_map(|arg| Some((arg.get_long()?, arg))).filter(|(name, _)| !["help", "version"].contains(name))
}

/// Every command without subcommands, with its full name.
fn commands(command: &Command, name: &str) -> Vec<(String, Command)> {
    let within = command.get_subcommands().flat_map(|sub| commands(sub, format!("{name} {}", sub.get_name()).trim()));
    let within: Vec<_> = within.collect();
    if within.is_empty() { vec![(name.to_owned(), command.clone())] } else { within }
}

#[test]
fn the_readme_has_the_flags_of_every_command_and_no_others() {
    let mut cli = Cli::command();
    cli.build();
    let readme = read("README.md");
    let shared = documented(section(&readme, "### `tagmill worker`"));
    for (name, command) in commands(&cli, "").into_iter().filter(|(name, _)| !name.starts_with("help")) {
        let first = name.split(' ').next().expect("a word");
        let route = if ["completions", "man"].contains(&first) {
            "### `tagmill completions`, `tagmill man`".to_owned()
        } else {
            format!("### `tagmill {first}`")
        };
        let own = documented(section(&readme, &route));
        let has: BTreeSet<_> = flags(&command).map(|(flag, _)| flag).collect();
        for flag in &has {
            assert!(own.contains_key(*flag) || shared.contains_key(*flag), "{name}: --{flag} is not in README.md");
        }
        if first == name {
            let unknown: Vec<_> =
                own.keys().filter(|flag| !has.contains(flag.as_str()) && name != "completions").collect();
            assert!(unknown.is_empty(), "README.md has {unknown:?}, which {name} does not");
        }
    }
}

#[test]
fn the_readme_has_the_defaults_of_a_worker() {
    let mut cli = Cli::command();
    cli.build();
    let readme = read("README.md");
    let documented = documented(section(&readme, "### `tagmill worker`"));
    let worker = cli.find_subcommand("worker").expect("it is there");
    for (flag, arg) in flags(worker).filter(|(_, arg)| arg.get_action().takes_values()) {
        let default: Vec<_> = arg.get_default_values().iter().filter_map(|value| value.to_str()).collect();
        if !default.is_empty() {
            assert_eq!(documented[flag], default.join(","), "--{flag}");
        }
    }
}

#[test]
fn every_variable_that_is_named_is_a_flag() {
    let mut cli = Cli::command();
    cli.build();
    let mut known: BTreeSet<String> = ["USER", "VERSION"].map(|own| format!("TAGMILL_{own}")).into();
    for (_, command) in commands(&cli, "") {
        known.extend(command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned())));
    }
    // The names of streams look like variables.
    known.extend(["JOBS", "RESULTS", "DEAD", "EVIDENCE"].map(|stream| format!("TAGMILL_{stream}")));
    let files = [
        ".env.example",
        "docker-compose.yml",
        "Dockerfile",
        "deploy/kubernetes/base/tagmill.env",
        "deploy/kubernetes/base/deployment.yaml",
        "README.md",
        "docs/compose.md",
        "docs/http.md",
        "docs/operations.md",
        "docs/runbook.md",
        "docs/scaling.md",
    ];
    for file in files {
        let text = read(file);
        let named = text.match_indices("TAGMILL_").map(|(at, _)| {
            let rest = &text[at..];
            &rest[..rest.find(|next: char| !next.is_ascii_uppercase() && next != '_').unwrap_or(rest.len())]
        });
        for name in named.filter(|name| *name != "TAGMILL_") {
            assert!(known.contains(name), "{file}: {name} is no flag's variable");
        }
    }
}

/// Metrics and their labels as exported by a worker.
fn exported(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let mut metrics: BTreeMap<_, BTreeSet<_>> = names.map(|name| (name, BTreeSet::new())).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, labels)) = line.split_once('{') else { continue };
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end)).unwrap_or(series);
        let labels = labels.split("\",").filter_map(|label| label.split_once("=\"").map(|(name, _)| name));
        let labels = labels.filter(|name| *name != "le");
        if let Some(known) = metrics.get_mut(family) {
            known.extend(labels);
        }
    }
    metrics
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_has_the_metrics_of_a_worker_and_their_labels() {
    let nats = NatsServer::start();
    let worker = Worker::start(&nats);
    let client = Client::connect(&nats).await;
    client.submit_samples(10).await;
    client.submit("missing", "missing.png").await;
    client.results(10).await;
    client.dead(1).await;
    client.queue_is_empty().await;
    let (_, text) = worker.get("/metrics").await;
    let exported = exported(&text);

    let readme = read("README.md");
    let mut documented = BTreeMap::new();
    for row in rows(section(&readme, "## Metrics")) {
        let labels: BTreeSet<_> = row[1].split('`').skip(1).step_by(2).collect();
        documented.extend(row[0].split('`').skip(1).step_by(2).map(|name| (name, labels.clone())));
    }
    for (name, labels) in exported.iter().filter(|(name, _)| name.starts_with("tagmill_")) {
        assert_eq!(documented.get(name), Some(labels), "{name} in README.md");
    }
    for name in documented.keys().filter(|name| !name.starts_with("tagmill_device_") && **name != "process_*") {
        assert!(exported.contains_key(name), "{name} is in README.md, and no worker has it");
    }
    assert!(documented.contains_key("process_*") && exported.keys().any(|name| name.starts_with("process_")));
}
