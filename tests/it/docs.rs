//! What is written for people is true: links lead somewhere, commands can be given, examples can be read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::Value;
use tagmill::cli::Cli;
use tagmill::failure::{Code, ErrorBody, Failure};
use tagmill::job::Job;
use tagmill::model::manifest::Manifest;
use tagmill::tags::{DeadLetter, OriginalJob};

use crate::support::repository;
use crate::support::worker::tagmill;

/// Every page, with its path from the repository's root.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/families/README.md", "samples/README.md"]
            .map(PathBuf::from)
            .into();
    let docs = std::fs::read_dir(repository("docs")).expect("a folder");
    paths.extend(docs.map(|entry| Path::new("docs").join(entry.expect("a file").file_name())));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(repository("").join(&path)).expect("it is in the repository");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The blocks of a page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(begin.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

/// A page without its blocks.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// What stands in backticks in a page's prose.
fn spans(page: &str) -> Vec<String> {
    let prose = prose(page).replace('\n', " ");
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The name that a route can be linked to by.
fn anchor(route: &str) -> String {
    let kept = route.trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    let prose = prose(page);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_in_it() {
    let mut links = 0;
    for (path, page) in pages() {
        let prose = prose(&page);
        for (_, rest) in prose.match_indices("](").map(|(at, _)| prose.split_at(at + 2)) {
            let target = rest.split(')').next().expect("its end");
            if target.contains("://") {
                continue;
            }
            let (file, route) = target.split_once('#').unwrap_or((target, ""));
            let folder = path.parent().expect("a folder");
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            let found = repository("").join(&file);
            assert!(found.exists(), "{}: {target} leads nowhere", path.display());
            if !route.is_empty() {
                let text = std::fs::read_to_string(found).expect("text");
                assert!(anchors(&text).contains(route), "{}: {target} is no route", path.display());
            }
            links += 1;
        }
    }
    assert!(links > 50, "{links}");
}

#[test]
fn every_page_can_be_found_from_the_readme() {
    let readme = std::fs::read_to_string(repository("README.md")).expect("it is there");
    for (path, _) in pages().into_iter().filter(|(path, _)| path.starts_with("docs")) {
        assert!(readme.contains(&format!("]({}", path.display())), "README.md has no link to {}", path.display());
    }
}

#[test]
fn files_that_are_named_are_there() {
    const FOLDERS: [&str; 8] =
        ["src/", "tests/", "scripts/", "docs/", "benches/", "dashboards/", "deploy/", "samples/"];
    for (path, page) in pages() {
        for span in spans(&page) {
            let is_path = FOLDERS.iter().any(|folder| span.starts_with(folder)) && !span.contains([' ', '*', '<', '{']);
            assert!(!is_path || repository(&span).exists(), "{}: `{span}` is not there", path.display());
        }
    }
}

#[test]
fn commands_of_make_are_targets() {
    let makefile = std::fs::read_to_string(repository("Makefile")).expect("it is there");
    for (path, page) in pages() {
        let lines = blocks(&page, "sh").join("\n");
        let commands = lines.lines().map(str::to_owned).chain(spans(&page));
        for command in commands.filter_map(|line| Some(line.strip_prefix("make ")?.to_owned())) {
            let target = command.split(' ').next().expect("a word");
            assert!(makefile.contains(&format!("\n{target}:")), "{}: make {command}", path.display());
        }
    }
}

/// The words of a command up to where the shell goes on with something else.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in command.chars() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, '|' | '>' | '<' | ';' | '&' | ')') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// The commands of tagmill in a script.
fn commands(script: &str) -> Vec<String> {
    let script = script.replace("\\\n", " ");
    let commands = script.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("target/release/").unwrap_or(line).strip_prefix("tagmill ").map(|rest| rest.trim().to_owned())
    });
    commands.collect()
}

/// Why the program would not take this command, if so.
fn refused(command: &str) -> Option<clap::Error> {
    // Of the words that stand for others, the one that is not taken as it is.
    let meant = |word: String| if word == "CODE" { "bad_job".to_owned() } else { word };
    let arguments = std::iter::once("tagmill".to_owned()).chain(words(command).into_iter().map(meant));
    Cli::try_parse_from(arguments).err().filter(|error| error.kind() != ErrorKind::DisplayHelp)
}

#[test]
fn every_command_that_is_shown_can_be_given() {
    let mut shown = 0;
    for (path, page) in pages() {
        for command in blocks(&page, "sh").into_iter().flat_map(commands) {
            assert!(refused(&command).is_none(), "{}: {}", path.display(), refused(&command).expect("an error"));
            shown += 1;
        }
        // In a sentence a command may be named without all that it needs.
        for command in spans(&page).iter().filter_map(|span| span.strip_prefix("tagmill ")) {
            let error = refused(command).filter(|error| {
                use ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingRequiredArgument, MissingSubcommand};
                let kinds = [MissingRequiredArgument, DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand];
                !kinds.contains(&error.kind())
            });
            assert!(error.is_none(), "{}: `tagmill {command}`: {}", path.display(), error.expect("an error"));
        }
    }
    assert!(shown >= 15, "{shown}");
}

#[test]
fn every_example_in_the_help_can_be_given() {
    fn check(command: &clap::Command) -> usize {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = commands(&help);
        for example in &examples {
            assert!(refused(example).is_none(), "{example}: {}", refused(example).expect("an error"));
        }
        examples.len() + command.get_subcommands().map(check).sum::<usize>()
    }
    assert!(check(&Cli::command()) > 15);
}

#[test]
fn every_example_of_a_manifest_can_be_read() {
    let mut examples = 0;
    for (path, page) in pages() {
        for block in blocks(&page, "toml") {
            let read = Manifest::parse(block);
            assert!(read.is_ok(), "{}: {}", path.display(), read.expect_err("an error"));
            examples += 1;
        }
    }
    assert!(examples >= 2, "{examples}");
}

/// Names of fields, and of those in them.
fn fields(json: &Value, above: &str, names: &mut BTreeSet<String>) {
    match json {
        Value::Object(object) => {
            for (name, value) in object {
                let name = format!("{above}.{name}");
                // What is in these is not the contract's.
                if ![".rating", ".meta", ".job"].contains(&name.as_str()) {
                    fields(value, &name, names);
                }
                names.insert(name);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, above, names)),
        _ => {}
    }
}

fn fields_of(json: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    fields(json, "", &mut names);
    names
}

/// One result, of the program itself.
fn a_result() -> Value {
    let (models, image) = (repository("models"), repository("samples/orange-sunset.jpg"));
    let mut command = tagmill(&["tag", "--models"]);
    let output = command.arg(models).arg(image).output().expect("it runs");
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

fn a_dead_letter() -> Value {
    let letter = DeadLetter {
        id: String::new(),
        subject: String::new(),
        job: OriginalJob::Text { job: String::new() },
        error: ErrorBody::from(&Failure::new(Code::BadJob, "")),
        retry_of: None,
        attempts: 1,
        worker: String::new(),
        at: String::new(),
    };
    serde_json::to_value(letter).expect("JSON")
}

#[test]
fn jobs_results_and_dead_letters_are_shown_as_they_are() {
    let (result, letter) = (fields_of(&a_result()), fields_of(&a_dead_letter()));
    let mut seen = [0; 3];
    for (path, page) in pages().into_iter().filter(|(path, _)| !path.ends_with("http.md")) {
        for block in blocks(&page, "json") {
            let json: Value = serde_json::from_str(block).expect(block);
            if json.get("tags").is_some() {
                assert_eq!(fields_of(&json), result, "{}: {block}", path.display());
                seen[0] += 1;
            } else if json.get("subject").is_some() {
                assert_eq!(fields_of(&json), letter, "{}: {block}", path.display());
                seen[1] += 1;
            } else if json.get("image").is_some() {
                assert!(Job::parse(block.as_bytes()).is_ok(), "{}: {block}", path.display());
                seen[2] += 1;
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen > 0), "{seen:?}");
}
