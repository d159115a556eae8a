//! `tagmill tag`: no broker, images of this machine or of a bucket.

mod captions;
mod folders;
mod output;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::repository;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::tagmill;

const SAMPLES: [&str; 3] = ["orange-sunset.jpg", "blue-ocean.webp", "night-sky.png"];

/// A folder with some samples, two of them in a folder in it.
fn photos() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("inner")).expect("a folder");
    for (sample, name) in SAMPLES.iter().zip(["sunset.jpg", "inner/ocean.webp", "inner/sky.PNG"]) {
        fs::copy(repository("samples").join(sample), folder.path().join(name)).expect("a copy");
    }
    folder
}

fn command(arguments: &[&str]) -> Command {
    let mut command = tagmill(&["tag", "--models"]);
    command.arg(repository("models")).args(arguments);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(arguments).arg(folder).output().expect("it runs")
}

/// Lines by the name of their image's file.
fn lines(bytes: &[u8]) -> BTreeMap<String, Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let line = |line: &str| -> (String, Value) {
        let json: Value = serde_json::from_str(line).expect("every line is JSON");
        let name = json["image"].as_str().expect("an image").rsplit('/').next().expect("a name").to_owned();
        (name, json)
    };
    text.lines().map(line).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_image_of_a_folder_is_a_line() {
    let folder = photos();
    fs::write(folder.path().join("notes.txt"), "no image").expect("a file");
    let output = run(folder.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let lines = lines(&output.stdout);
    let names: Vec<_> = lines.keys().map(String::as_str).collect();
    assert_eq!(names, ["ocean.webp", "sky.PNG", "sunset.jpg"]);
    let sunset = &lines["sunset.jpg"];
    assert_eq!(sunset["image"], folder.path().join("sunset.jpg").to_str().expect("UTF-8"));
    assert_eq!((&sunset["tags"][0]["name"], &sunset["model"]["name"]), (&"orange".into(), &"demo".into()));
    let said = said(&output);
    assert!(said.contains("3 tagged, 0 failed, in ") && !said.contains('\u{1b}'), "{said}");
}

/// A folder with every kind of bad file, beside three good ones.
fn bad_files() -> TempDir {
    let folder = photos();
    let path = |name: &str| folder.path().join(name);
    let jpeg = fs::read(repository("samples/orange-sunset.jpg")).expect("a sample");
    fs::write(path("truncated.jpg"), &jpeg[..jpeg.len() / 2]).expect("a file");
    fs::write(path("empty.jpg"), "").expect("a file");
    fs::write(path("text.png"), "no image at all").expect("a file");
    // A PNG whose header speaks of 100,000 by 100,000 pixels.
    let mut huge = fs::read(repository("samples/night-sky.png")).expect("a sample");
    huge[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let mut checksum = flate2::Crc::new();
    checksum.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    fs::write(path("huge.png"), huge).expect("a file");
    symlink("round.jpg", path("round.jpg")).expect("a link");
    symlink("nowhere.jpg", path("broken.jpg")).expect("a link");
    symlink(folder.path(), path("inner/up")).expect("a link");
    fs::create_dir(path("folder.jpg")).expect("a folder");
    let pipe = Command::new("mkfifo").arg(path("pipe.jpg")).status().expect("it runs");
    assert!(pipe.success());
    let name = OsStr::from_bytes(b"caf\xe9.jpg");
    fs::copy(repository("samples/orange-sunset.jpg"), folder.path().join(name)).expect("a copy");
    folder
}

#[test]
fn bad_files_are_reported_and_the_others_tagged() {
    let folder = bad_files();
    let missing = folder.path().join("missing.jpg");
    let output = run(folder.path(), &[missing.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    let lines = lines(&output.stdout);
    let codes: BTreeMap<_, _> =
        lines.iter().filter_map(|(name, line)| Some((name.as_str(), line["error"]["code"].as_str()?))).collect();
    let expected = BTreeMap::from([
        ("truncated.jpg", "image_undecodable"),
        ("empty.jpg", "image_undecodable"),
        ("text.png", "image_undecodable"),
        ("huge.png", "image_too_large"),
        ("round.jpg", "storage_unavailable"),
        ("broken.jpg", "image_not_found"),
        ("pipe.jpg", "image_not_found"),
        ("missing.jpg", "image_not_found"),
    ]);
    assert_eq!(codes, expected, "{said}");
    assert_eq!(lines.len(), expected.len() + 4, "three good ones, and one whose name is not UTF-8: {lines:?}");
    assert!(lines["caf%E9.jpg"]["text"].as_str().is_some_and(|text| text.starts_with("orange")));
    assert!(said.contains("4 tagged, 8 failed"), "{said}");
    for (name, code) in expected {
        let about = said.lines().filter(|line| line.contains(&format!("/{name}: {code}: "))).count();
        assert_eq!(about, 1, "{name} is named once: {said}");
    }
    let last = "8 images failed: 3 image_not_found, 1 image_too_large, 3 image_undecodable, 1 storage_unavailable";
    assert_eq!(said.lines().last(), Some(format!("tagmill: {last}").as_str()), "{said}");
}

#[test]
fn a_path_that_is_not_there_is_reported_without_a_model() {
    let nowhere = tagmill(&["tag", "--models", "/nowhere", "/missing.jpg"]).output().expect("it runs");
    assert_eq!(nowhere.status.code(), Some(2), "{}", said(&nowhere));
    let output = command(&["/missing.jpg"]).output().expect("it runs");
    assert!(!said(&output).contains("the model is ready"), "{}", said(&output));
    let lines = lines(&output.stdout);
    assert_eq!((output.status.code(), lines.len()), (Some(1), 1), "{}", said(&output));
    assert_eq!(lines["missing.jpg"]["error"]["code"], "image_not_found");
    assert!(said(&output).ends_with("tagmill: 1 image failed: 1 image_not_found\n"), "{}", said(&output));
}

#[test]
fn what_may_not_be_read_is_reported_too() {
    let folder = photos();
    let (file, inner) = (folder.path().join("sunset.jpg"), folder.path().join("inner"));
    for path in [&file, &inner] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("they are ours");
    }
    // Root may read everything, so this runs as a root that may not.
    let is_root = fs::read(&file).is_ok();
    let plain = command(&[]);
    let mut command = if is_root { Command::new("setpriv") } else { command(&[]) };
    if is_root {
        let without = "-dac_override,-dac_read_search";
        command.args([format!("--bounding-set={without}"), format!("--inh-caps={without}")]).arg(plain.get_program());
        command.args(plain.get_args()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
    }
    let output = command.arg(folder.path()).output().expect("it runs");
    for path in [&file, &inner] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("they are ours");
    }
    let codes: Vec<_> =
        lines(&output.stdout).into_iter().map(|(name, line)| (name, line["error"]["code"].clone())).collect();
    let denied = |name: &str| (name.to_owned(), Value::from("storage_denied"));
    assert_eq!(codes, [denied("inner"), denied("sunset.jpg")], "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn captions_stand_beside_their_images_as_training_tools_want_them() {
    let folder = photos();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect("a sidecar");
    let output = run(folder.path(), &["--sidecar", "txt"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    let plain = read("sunset.txt");
    assert!(plain.starts_with("orange, warm colors") && plain.ends_with('\n'), "{plain}");
    assert!(!read("inner/ocean.txt").is_empty() && !read("inner/sky.txt").is_empty());

    let arguments = ["--sidecar", "caption", "--underscores", "--prepend-tag", "my style", "--exclude-tag", "orange"];
    assert!(run(folder.path(), &arguments).status.success());
    let caption = read("sunset.caption");
    assert!(caption.starts_with("my style, warm_colors") && !caption.contains("orange"), "{caption}");

    fs::write(folder.path().join("sunset.txt"), "hand made, orange\n").expect("a file");
    assert!(run(folder.path(), &["--sidecar", "txt", "--append"]).status.success());
    let appended = read("sunset.txt");
    assert!(appended.starts_with("hand made, orange, warm colors"), "{appended}");
    assert_eq!(appended.matches("orange").count(), plain.matches("orange").count());
    let kept = run(folder.path(), &["--sidecar", "txt"]);
    assert!(
        said(&kept).contains("0 tagged, 3 skipped") && said(&kept).contains("3 sidecars existed and kept"),
        "{}",
        said(&kept)
    );
    assert_eq!(read("sunset.txt"), appended, "as it was");
    let anew = run(folder.path(), &["--sidecar", "txt", "--overwrite"]);
    assert!(
        said(&anew).contains("3 tagged, 0 failed") && said(&anew).contains("3 sidecars replaced"),
        "{}",
        said(&anew)
    );
    assert_eq!(read("sunset.txt"), plain, "written anew");

    let lines_too = folder.path().join("tags.jsonl");
    let output = lines_too.to_str().expect("UTF-8");
    assert!(run(folder.path(), &["--sidecar", "json", "--output", output]).status.success());
    let json: Value = serde_json::from_str(&read("sunset.json")).expect("JSON");
    assert_eq!(json["tags"], lines(&fs::read(&lines_too).expect("lines"))["sunset.jpg"]["tags"]);
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".part")), "{left:?}");
}

#[test]
fn a_sidecar_is_one_images_alone() {
    let folder = photos();
    fs::copy(repository("samples/blue-ocean.webp"), folder.path().join("sunset.webp")).expect("a copy");
    let read = || fs::read_to_string(folder.path().join("sunset.txt")).expect("a sidecar");
    let output = run(folder.path(), &["--sidecar", "txt"]);
    assert_eq!(output.status.code(), Some(1));
    let said_first = said(&output);
    assert!(
        said_first.contains("3 tagged, 1 failed") && said_first.contains("sunset.txt` is the sidecar of"),
        "{said_first}"
    );
    assert!(said_first.contains("--sidecar-name full"), "{said_first}");
    let caption = read();
    // Nor is it taken for the other's later; and lines have room for both.
    let output = run(folder.path(), &["--sidecar", "txt", "--skip-existing"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("0 tagged, 3 skipped, 1 failed"), "{}", said(&output));
    assert_eq!(read(), caption);
    assert!(run(folder.path(), &[]).status.success());
    // An image that is named twice is no other image.
    fs::remove_file(folder.path().join("inner/sky.txt")).expect("it was written");
    let image = folder.path().join("inner/sky.PNG");
    let other = folder.path().join("./inner//sky.PNG");
    let output = run(&image, &["--sidecar", "txt", other.to_str().expect("UTF-8")]);
    assert!(output.status.success() && said(&output).contains("1 tagged, 1 skipped"), "{}", said(&output));
}

#[test]
fn a_sidecar_that_cannot_be_written_fails_its_image_alone() {
    let folder = photos();
    fs::create_dir(folder.path().join("sunset.txt")).expect("a folder in the way");
    let output = run(folder.path(), &["--sidecar", "txt"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output);
    assert!(said.contains("2 tagged, 1 failed") && said.contains("sunset.txt` can't be written"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_bucket_are_tagged_where_they_are() {
    let s3 = S3Server::start("images").await;
    for (number, sample) in SAMPLES.iter().enumerate() {
        s3.put("images", &format!("2026/{number}/{sample}"), &repository("samples").join(sample));
        s3.put("images", &format!("2025/{number}/{sample}"), &repository("samples").join(sample));
    }
    s3.put("images", "2026/broken.jpg", &repository("samples/night-sky.png"));
    s3.fault("broken.jpg", Fault::Broken);
    let environment = s3.environment();
    let tag = async |arguments: Vec<&'static str>| {
        let environment = environment.clone();
        let run = move || command(&arguments).envs(environment).output().expect("it runs");
        tokio::task::spawn_blocking(run).await.expect("no panic")
    };
    let output = tag(vec!["s3://images/2026", "s3://images/2025/0/orange-sunset.jpg"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 5);
    assert!(text.contains(r#""image":"s3://images/2025/0/orange-sunset.jpg""#), "{text}");
    let lines = lines(&output.stdout);
    assert_eq!(lines["broken.jpg"]["error"]["code"], "storage_unavailable");
    assert_eq!(lines["night-sky.png"]["image"], "s3://images/2026/2/night-sky.png");

    // What is no path here is looked for in the store.
    let output = tag(vec!["--store", "s3://images/2025", "1/blue-ocean.webp", "2"]).await;
    let named = self::lines(&output.stdout);
    assert_eq!(named["blue-ocean.webp"]["image"], "s3://images/2025/1/blue-ocean.webp", "{}", said(&output));
    assert_eq!((named["night-sky.png"]["image"].as_str(), named.len()), (Some("s3://images/2025/2/night-sky.png"), 2));

    let refused = tag(vec!["--sidecar", "txt", "s3://images/2026"]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("--output"), "{}", said(&refused));
    let nowhere = tag(vec!["s3://nowhere"]).await;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(said(&nowhere).contains("s3://nowhere"), "{}", said(&nowhere));
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let full = tempfile::NamedTempFile::new().expect("a file");
    fs::write(full.path(), "{}\n").expect("written");
    let path = full.path().to_str().expect("UTF-8");
    for (arguments, named) in [
        (vec![], "PATH|LOCATION"),
        (vec!["ftp://host/a.jpg"], "`ftp://host/a.jpg` is neither a path here nor a location"),
        (vec!["--append", "a.jpg"], "--sidecar"),
        (vec!["--append", "--sidecar", "json", "a.jpg"], "--append"),
        (vec!["--overwrite", "a.jpg"], "--sidecar"),
        (vec!["--overwrite", "--append", "--sidecar", "txt", "a.jpg"], "--append"),
        (vec!["--sidecar", "xml", "a.jpg"], "xml"),
        (vec!["--batch-size", "0", "a.jpg"], "--batch-size"),
        (vec!["--output", "/no/such/folder/x", "a.jpg"], "/no/such/folder/x"),
        (vec!["--output", "/", "a.jpg"], "`/` can't be used (--output)"),
        (vec!["--output", path, "a.jpg"], "it is not empty; go on with it (--skip-existing)"),
        (vec!["--skip-existing", "a.jpg"], "--output FILE"),
    ] {
        let output = command(&arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(named), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(fs::read(full.path()).expect("a file"), b"{}\n", "nothing of it is lost");
}

#[test]
fn tags_are_named_with_underscores_or_spaces_and_one_that_is_none_is_said() {
    let image = repository("samples/orange-sunset.jpg");
    let text = |arguments: &[&str]| {
        let output = run(&image, arguments);
        let text = lines(&output.stdout)["orange-sunset.jpg"]["text"].as_str().expect("a text").to_owned();
        (text, said(&output))
    };
    let (plain, log) = text(&[]);
    assert!(plain.starts_with("orange, warm colors") && !log.contains("no such tags"), "{plain} {log}");
    for name in ["warm_colors", "warm colors"] {
        let (without, log) = text(&["--exclude-tag", name]);
        assert!(!without.contains("warm") && !log.contains("no such tags"), "{name}: {without} {log}");
        let (reworded, _) = text(&["--replace-tag", &format!("{name}=warm_tones")]);
        assert!(reworded.contains("warm_tones"), "{name}: {reworded}");
    }
    let (_, log) = text(&[
        "--exclude-tag",
        "warm-colors",
        "--replace-tag",
        "ornage=x",
        "--first-tag",
        "a,b",
        "--exclude-category",
        "colour",
    ]);
    for (flag, name) in [
        ("exclude-tag", "warm-colors"),
        ("replace-tag", "ornage"),
        ("first-tag", "a,b"),
        ("exclude-category", "colour"),
    ] {
        let warned = log.lines().find(|line| line.contains(&format!("(--{flag})"))).expect("a warning");
        assert!(warned.contains(&format!(r#"{{"{name}"}}"#)), "{warned}");
    }
}
