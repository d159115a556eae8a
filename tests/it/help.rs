//! Help and error messages of the command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::support::worker::tagmill;

const COMMANDS: [&[&str]; 18] = [
    &[],
    &["worker"],
    &["tag"],
    &["bench"],
    &["serve"],
    &["submit"],
    &["init"],
    &["dead"],
    &["dead", "list"],
    &["dead", "retry"],
    &["dead", "drop"],
    &["models"],
    &["models", "list"],
    &["models", "check"],
    &["models", "pull"],
    &["models", "optimize"],
    &["completions"],
    &["man"],
];

fn said(arguments: &[&str]) -> String {
    let output = tagmill(arguments).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_command_says_what_it_does_within_110_columns_and_without_colours() {
    for command in COMMANDS {
        let help = said(&[command, &["--help"]].concat());
        assert!(help.contains("Usage: tagmill"), "{help}");
        assert!(!help.contains('\u{1b}'), "{command:?} is coloured where nobody sees it");
        let long = help.lines().find(|line| line.chars().count() > 120);
        assert_eq!(long, None, "{command:?}");
    }
}

#[test]
fn every_flag_has_its_environment_variable() {
    for command in COMMANDS {
        let help = said(&[command, &["--help"]].concat());
        let flags = help.lines().filter_map(|line| {
            line.trim_start()
                .split(' ')
                .find(|word| word.starts_with("--"))
                .filter(|_| line.trim_start().starts_with('-'))
        });
        let flags: Vec<_> = flags.map(|flag| flag.trim_end_matches(',')).collect();
        for flag in flags.iter().filter(|flag| !["--help", "--version", "--all", "--yes"].contains(flag)) {
            let variable = format!("[env: TAGMILL_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase());
            assert!(help.contains(&variable), "{command:?} {flag}: no {variable} in\n{help}");
        }
    }
}

#[test]
fn a_wrong_value_of_a_variable_is_said_to_be_its() {
    let refused = |arguments: &[&str]| {
        let environment = [("TAGMILL_BATCH_SIZE", "many"), ("TAGMILL_ALIAS", "a=b,nonsense")];
        let mut command = tagmill(&[&["worker"], arguments].concat());
        let ended = command.envs(environment).output().expect("it runs");
        assert_eq!(ended.status.code(), Some(2));
        String::from_utf8(ended.stderr).expect("text")
    };
    let said = refused(&["--models", "x", "--alias", "a=b"]);
    assert!(said.contains("'many' for '--batch-size <N>'") && said.contains("variable TAGMILL_BATCH_SIZE"), "{said}");
    let said = refused(&["--models", "x", "--batch-size", "8"]);
    assert!(said.contains("nonsense") && said.contains("variable TAGMILL_ALIAS"), "{said}");
    let mut no_text = tagmill(&["tag", "--models", "x"]);
    no_text.arg(OsStr::from_bytes(b"caf\xe9.jpg")).env("TAGMILL_BATCH_SIZE", "many");
    assert_eq!(no_text.status().expect("it runs").code(), Some(2));
    // For a flag on the command line, the message names the flag.
    let said = refused(&["--models", "x", "--alias", "a=b", "--batch-size=many"]);
    assert!(said.contains("'many'") && !said.contains("variable"), "{said}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let script = said(&["completions", "bash"]);
    for word in ["worker", "--drain-timeout", "--skip-existing", "retry"] {
        assert!(script.contains(word), "{word}");
    }
    let checked = Command::new("bash").arg("-n").arg("/dev/stdin").stdin(std::process::Stdio::piped()).spawn();
    let mut checked = checked.expect("bash is there");
    std::io::Write::write_all(&mut checked.stdin.take().expect("piped"), script.as_bytes()).expect("it is read");
    assert!(checked.wait().expect("it ends").success(), "bash can read it");
    for shell in ["zsh", "fish"] {
        assert!(said(&["completions", shell]).contains("skip-existing"), "{shell}");
    }
    assert!(said(&["man"]).contains(".TH"));
    assert!(said(&["man", "worker"]).contains("drain"));
    assert!(said(&["man", "dead", "retry"]).contains("again"));
    assert_eq!(tagmill(&["man", "nothing"]).output().expect("it runs").status.code(), Some(2));

    let folder = tempfile::tempdir().expect("a folder");
    said(&["man", "--dir", folder.path().to_str().expect("UTF-8")]);
    for page in ["tagmill.1", "tagmill-worker.1", "tagmill-tag.1", "tagmill-dead-retry.1"] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
}
