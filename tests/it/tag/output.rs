//! What an earlier run has written is gone on with, and never lost.

use std::collections::HashSet;
use std::fs;
use std::process::{Command, Stdio};

use super::{SAMPLES, command, lines, photos, run, said};
use crate::support::{PATIENCE, repository};

#[test]
fn what_was_done_before_is_left_out() {
    let folder = photos();
    fs::write(folder.path().join("sunset.txt"), "mine").expect("a file");
    let output = run(folder.path(), &["--sidecar", "txt", "--skip-existing"]);
    assert!(output.status.success() && said(&output).contains("2 tagged, 1 skipped, 0 failed"), "{}", said(&output));
    assert_eq!(fs::read_to_string(folder.path().join("sunset.txt")).expect("text"), "mine");

    let file = folder.path().join("tags.jsonl");
    let go_on = ["--output", file.to_str().expect("UTF-8"), "--skip-existing"];
    assert!(run(folder.path(), &go_on).status.success());
    let whole = fs::read_to_string(&file).expect("lines");
    let mut kept: Vec<_> = whole.lines().collect();
    let lost = kept.pop().expect("three");
    let failed = r#"{"image":"x","error":{"code":"storage_unavailable","message":"gone"}}"#;
    fs::write(&file, format!("{failed}\n{}\n{}", kept.join("\n"), &lost[..lost.len() / 2])).expect("a file");
    let output = run(folder.path(), &go_on);
    assert!(said(&output).contains("1 tagged, 2 skipped"), "{}", said(&output));
    let text = fs::read_to_string(&file).expect("lines");
    assert_eq!((text.lines().count(), lines(text.as_bytes()).len()), (4, 4), "nothing else is lost: {text}");

    // What can't be looked at can't be gone on with, and is not waited for.
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
    for nowhere in [pipe.to_str().expect("UTF-8"), "-"] {
        let refused = run(folder.path(), &["--output", nowhere, "--skip-existing"]);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}

#[test]
fn an_interrupted_run_says_how_to_go_on_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = 3000;
    for number in 0..all {
        let sample = repository("samples").join(SAMPLES[number % 3]);
        let name = format!("{number}.{}", sample.extension().expect("one").to_string_lossy());
        fs::hard_link(&sample, folder.path().join(&name))
            .or_else(|_| fs::copy(&sample, folder.path().join(&name)).map(drop))
            .expect("a copy");
    }
    let file = folder.path().join("tags.jsonl");
    let go_on = ["--output", file.to_str().expect("UTF-8"), "--skip-existing"];
    let mut first = command(&go_on).arg(folder.path()).stderr(Stdio::piped()).spawn().expect("it runs");
    let began = std::time::Instant::now();
    while fs::metadata(&file).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(began.elapsed() < PATIENCE && first.try_wait().expect("ours").is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let signalled = Command::new("kill").args(["-s", "INT", &first.id().to_string()]).status();
    assert!(signalled.expect("kill runs").success());
    let first = first.wait_with_output().expect("it ends");
    assert_eq!(first.status.code(), Some(1));
    assert!(said(&first).contains("--skip-existing") && said(&first).contains(" 0 failed"), "{}", said(&first));
    let done = lines(&fs::read(&file).expect("lines")).len();
    assert!(done > 0 && done < all, "{done}");

    let second = run(folder.path(), &go_on);
    assert!(second.status.success(), "{}", said(&second));
    assert!(said(&second).contains(&format!("{} tagged, {done} skipped", all - done)), "{}", said(&second));
    let text = fs::read_to_string(&file).expect("lines");
    let images: HashSet<_> = text.lines().collect();
    assert_eq!((text.lines().count(), images.len(), lines(text.as_bytes()).len()), (all, all, all));
}

#[test]
fn results_of_an_earlier_run_outlive_one_that_does_not_begin() {
    let folder = photos();
    let file = folder.path().join("tags.jsonl");
    let output = ["--output", file.to_str().expect("UTF-8")];
    assert!(run(folder.path(), &output).status.success());
    let whole = fs::read(&file).expect("lines");
    for more in [&["--model", "none"][..], &[]] {
        assert_eq!(run(folder.path(), &[&output[..], more].concat()).status.code(), Some(2), "{more:?}");
        assert_eq!(fs::read(&file).expect("lines"), whole);
    }
    // Another model's are told from those of this one.
    let text = String::from_utf8(whole).expect("UTF-8").replacen("\"name\":\"demo\"", "\"name\":\"other\"", 1);
    fs::write(&file, text).expect("written");
    let again = run(folder.path(), &[&output[..], &["--skip-existing"]].concat());
    assert!(said(&again).contains("0 tagged, 3 skipped") && said(&again).contains("results=1"), "{}", said(&again));
}

#[test]
fn a_dash_is_standard_output() {
    let folder = photos();
    let output = run(folder.path(), &["--sidecar", "txt", "--output", "-"]);
    assert_eq!(lines(&output.stdout).len(), 3, "{}", said(&output));
    assert!(folder.path().join("sunset.txt").is_file(), "and beside the images");
}
