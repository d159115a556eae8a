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
fn of_two_outputs_each_is_completed_and_nothing_is_overwritten() {
    let folder = photos();
    let (caption, file) = (folder.path().join("sunset.txt"), folder.path().join("tags.jsonl"));
    let both = ["--sidecar", "txt", "--output", file.to_str().expect("UTF-8")];
    let go_on = [&both[..], &["--skip-existing"]].concat();
    let read = || (fs::read_to_string(&caption).expect("a caption"), fs::read_to_string(&file).expect("lines"));
    fs::write(&caption, "by hand").expect("a file");
    let first = run(folder.path(), &both);
    assert!(said(&first).contains("3 tagged, 0 failed"), "{}", said(&first));
    assert!(said(&first).contains("1 sidecar existed and kept"), "{}", said(&first));
    let (by_hand, lines) = read();
    assert_eq!((by_hand.as_str(), lines.lines().count()), ("by hand", 3));

    // Its line is lost: the line alone is written again.
    let others: String = lines.split_inclusive('\n').filter(|line| !line.contains("sunset")).collect();
    fs::write(&file, &others).expect("written");
    let second = run(folder.path(), &go_on);
    assert!(said(&second).contains("1 tagged, 2 skipped"), "{}", said(&second));
    let (by_hand, lines) = read();
    assert_eq!((by_hand.as_str(), lines.lines().count()), ("by hand", 3));

    // Its caption is lost: the caption alone is written again; and not even a failure takes its line's place.
    fs::remove_file(&caption).expect("it was there");
    let third = run(folder.path(), &go_on);
    assert!(said(&third).contains("1 tagged, 2 skipped"), "{}", said(&third));
    assert!(read().0.starts_with("orange") && read().1 == lines, "{lines}");
    fs::remove_file(&caption).expect("it was there");
    fs::create_dir(&caption).expect("a folder in the way");
    assert_eq!(run(folder.path(), &go_on).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).expect("lines"), lines);
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

/// The recipe in `README.md` is run as it stands there, twice.
#[test]
fn the_recipe_for_a_database_keeps_every_image_and_can_run_again() {
    let page = fs::read_to_string(repository("README.md")).expect("it is there");
    let recipe =
        page.split("```sh\n").find(|block| block.starts_with("python3 - tags.jsonl tags.db")).expect("a recipe");
    let recipe = recipe.split("\n```").next().expect("its end");
    let folder = photos();
    fs::write(folder.path().join("bad.png"), "no image").expect("a file");
    let file = folder.path().join("tags.jsonl");
    let output = ["--output", file.to_str().expect("UTF-8"), "--general-threshold", "0.99"];
    assert_eq!(run(folder.path(), &output).status.code(), Some(1), "one is bad");
    let bash = |script: &str| {
        let output = Command::new("bash").args(["-euc", script]).current_dir(folder.path()).output().expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    bash(recipe);
    bash(recipe);
    let counts = "import sqlite3; db = sqlite3.connect('tags.db')\n\
        for query in ['images', 'images where error is not null', 'tags where category = \"rating\" and tag = \"general\"', \
        'tags where tag = \"orange\"']: print(*db.execute('select count(*) from ' + query).fetchone())";
    assert_eq!(bash(&format!("python3 - <<'PYTHON'\n{counts}\nPYTHON")), "4\n1\n3\n1\n");
}

#[test]
fn a_table_has_a_row_for_each_tag_and_is_added_to() {
    let folder = photos();
    let file = folder.path().join("tags.csv");
    let arguments = ["--output", file.to_str().expect("UTF-8"), "--skip-existing"];
    let first = run(&folder.path().join("sunset.jpg"), &arguments);
    assert!(first.status.success(), "{}", said(&first));
    let text = fs::read_to_string(&file).expect("a table");
    assert!(text.starts_with("image,tag,category,score,error\n"), "{text}");
    let row = |name: &str, category: &str| {
        let cells = format!("sunset.jpg,{name},{category},");
        text.lines().find_map(|line| line.split_once(&cells)?.1.strip_suffix(',')?.parse::<f64>().ok()).expect(name)
    };
    assert!(row("orange", "general") > 0.9 && row("general", "rating") > 0.5, "{text}");
    // Its last row was never finished, so that image comes again, and the others for the first time.
    fs::write(&file, &text[..text.len() - 3]).expect("a file");
    let second = run(folder.path(), &arguments);
    assert!(said(&second).contains("3 tagged, 0 failed"), "{}", said(&second));
    let third = run(folder.path(), &arguments);
    assert!(said(&third).contains("0 tagged, 3 skipped"), "{}", said(&third));
    let whole = fs::read_to_string(&file).expect("a table");
    assert_eq!(whole.matches("sunset.jpg,orange,").count(), 1, "{whole}");
    let refused = run(folder.path(), &["--output", "tags.db"]);
    assert_eq!(refused.status.code(), Some(2), "no lines of JSON under the name of a database");
}

#[test]
fn a_table_has_a_row_for_each_image_that_failed_until_it_is_tagged() {
    let folder = photos();
    let (file, bad) = (folder.path().join("tags.csv"), folder.path().join("bad.png"));
    fs::write(&bad, "no image").expect("a file");
    let arguments = ["--output", file.to_str().expect("UTF-8"), "--skip-existing"];
    let rows = || {
        let text = fs::read_to_string(&file).expect("a table");
        text.lines().filter(|row| row.contains("bad.png")).map(str::to_owned).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(run(folder.path(), &arguments).status.code(), Some(1));
        let rows = rows();
        assert!(rows.len() == 1 && rows[0].contains("bad.png,,,,\"image_undecodable: "), "{rows:?}");
    }
    fs::copy(repository("samples/night-sky.png"), &bad).expect("a copy");
    let mended = run(folder.path(), &arguments);
    assert!(said(&mended).contains("1 tagged, 3 skipped"), "{}", said(&mended));
    assert!(rows().len() > 1 && rows().iter().all(|row| row.ends_with(',')), "{:?}", rows());
}

#[test]
fn an_image_has_one_line_wherever_the_run_that_goes_on_is_started() {
    let folder = photos();
    let root = folder.path().canonicalize().expect("it is there");
    for file in ["tags.jsonl", "tags.csv"] {
        let from = |here: &str, source: &str, file: &str| {
            let mut command = command(&["--output", file, "--skip-existing", source]);
            command.current_dir(root.join(here)).output().expect("it runs")
        };
        let first = from("inner", ".", &format!("../{file}"));
        assert!(said(&first).contains("2 tagged"), "{}", said(&first));
        let second = from(".", "inner", file);
        assert!(said(&second).contains("0 tagged, 2 skipped"), "{}", said(&second));
        let third = from(".", &root.join("inner").display().to_string(), file);
        assert!(said(&third).contains("0 tagged, 2 skipped"), "{}", said(&third));
        let text = fs::read_to_string(root.join(file)).expect("results");
        assert!(text.contains("inner/ocean.webp") && !text.contains("./"), "{text}");
    }
    // Another folder's image of the same relative name is another image.
    let other = root.join("other");
    fs::create_dir_all(other.join("inner")).expect("a folder");
    fs::copy(root.join("sunset.jpg"), other.join("inner/ocean.webp")).expect("a copy");
    let mut more = command(&["--output", "../tags.jsonl", "--skip-existing", "inner"]);
    let more = more.current_dir(&other).output().expect("it runs");
    assert!(said(&more).contains("1 tagged, 0 failed"), "{}", said(&more));
}
