//! Captions as other programs make them, on a model with a rating and a character.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::said;
use crate::support::repository;
use crate::support::worker::tagmill;

/// A folder with `models`, and a picture that is scored as `docs/coming-from.md` says.
fn workplace() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("models/wd");
    fs::create_dir_all(&model).expect("a folder");
    fs::copy(repository("tests/models/families/wd-v3/model.onnx"), model.join("model.onnx")).expect("a copy");
    let labels = "tag_id,name,category,count\n1,general,9,1\n2,long_hair,0,1\n3,saber_(fate),4,1\n4,1girl,0,1\n";
    fs::write(model.join("selected_tags.csv"), labels).expect("a file");
    fs::create_dir(folder.path().join("photos")).expect("a folder");
    RgbImage::from_pixel(32, 32, Rgb([51, 102, 204])).save(folder.path().join("photos/a.png")).expect("it is saved");
    folder
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    with(folder, arguments, &[])
}

fn with(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = tagmill(&[&["tag"], arguments].concat());
    command.current_dir(folder).envs(environment.iter().copied()).output().expect("it runs")
}

fn caption(folder: &TempDir, file: &str) -> String {
    let text = fs::read_to_string(folder.path().join("photos").join(file)).expect("a caption");
    text.trim_end().to_owned()
}

/// The commands in `docs/coming-from.md` write what stands below them.
#[test]
fn the_commands_for_those_who_come_from_other_taggers_write_what_they_say() {
    let page = fs::read_to_string(repository("docs/coming-from.md")).expect("it is there");
    let mut lines = page.lines();
    let mut ran = 0;
    while let Some(line) = lines.next() {
        let Some(command) = line.strip_prefix("tagmill tag ") else { continue };
        let expected = lines.next().and_then(|line| line.strip_prefix("# → ")).expect(line);
        let folder = workplace();
        let program = tagmill(&[]);
        let script = format!("{} tag {command}", program.get_program().display());
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).current_dir(folder.path());
        bash.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = bash.output().expect("it runs");
        assert!(output.status.success(), "{line}\n{}", said(&output));
        let extension = if command.contains("--sidecar-extension tags") { "tags" } else { "txt" };
        assert_eq!(caption(&folder, &format!("a.{extension}")), expected, "{line}");
        ran += 1;
    }
    assert!(ran > 8, "{ran}");
}

#[test]
fn appended_tags_come_after_what_every_caption_begins_with() {
    let folder = workplace();
    fs::write(folder.path().join("photos/a.txt"), "by hand, 1girl\n").expect("a file");
    let arguments = ["--sidecar", "txt", "--threshold", "0.1", "--append", "--prepend-tag", "my style", "photos"];
    assert!(run(folder.path(), &arguments).status.success());
    assert_eq!(caption(&folder, "a.txt"), "my style, by hand, 1girl, saber (fate), long hair");
}

#[test]
fn a_value_is_one_value_and_a_variable_a_list() {
    let folder = workplace();
    let text = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = with(folder.path(), &[arguments, &["--threshold", "0.1", "photos"]].concat(), environment);
        assert!(output.status.success(), "{}", said(&output));
        let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a line");
        line["text"].as_str().expect("a text").to_owned()
    };
    assert_eq!(text(&["--prepend-tag", "a, b", "--prepend-tag", "c"], &[]), "a, b, c, 1girl, saber (fate), long hair");
    let variable = [("TAGMILL_EXCLUDE_TAG", "1girl, long hair"), ("TAGMILL_PREPEND_TAG", "a , b")];
    assert_eq!(text(&[], &variable), "a, b, saber (fate)");
    assert_eq!(text(&["--exclude-tag", "1girl"], &variable), "a, b, saber (fate), long hair", "the command line wins");
}

#[test]
fn frequencies_are_counted_and_a_dry_run_writes_nothing() {
    let folder = workplace();
    let table = folder.path().join("tags.tsv");
    fs::copy(folder.path().join("photos/a.png"), folder.path().join("photos/b.png")).expect("a copy");
    let arguments = ["--sidecar", "txt", "--threshold", "0.3", "--frequencies", "tags.tsv", "--name", "me", "photos"];
    let dry = run(folder.path(), &[&["--dry-run"][..], &arguments].concat());
    assert!(
        dry.status.success() && String::from_utf8_lossy(&dry.stdout).contains("photos/a.txt: 1girl, saber (fate)"),
        "{dry:?}"
    );
    let files =
        || fs::read_dir(folder.path().join("photos")).expect("a folder").flatten().map(|entry| entry.file_name());
    assert!(!table.exists() && files().collect::<BTreeSet<_>>().len() == 2);
    assert!(run(folder.path(), &arguments).status.success());
    let counted = "tag\tcategory\timages\nsaber_(fate)\tcharacter\t2\n1girl\tgeneral\t2\n";
    assert_eq!(fs::read_to_string(&table).expect("a table"), counted);
    let refused = run(folder.path(), &arguments);
    assert!(
        refused.status.code() == Some(2) && said(&refused).contains("--overwrite replaces it"),
        "{}",
        said(&refused)
    );
    assert_eq!(fs::read_to_string(&table).expect("a table"), counted, "nothing of it is lost");
    let json = run(folder.path(), &["--name", "me", "photos/a.png"]);
    assert!(String::from_utf8_lossy(&json.stdout).contains(r#""worker":"me""#), "{json:?}");
}

#[test]
fn two_images_of_one_name_have_each_its_sidecar_where_that_is_asked_for() {
    let folder = workplace();
    fs::copy(folder.path().join("photos/a.png"), folder.path().join("photos/a.webp")).expect("a copy");
    let output = run(folder.path(), &["--sidecar", "txt", "--sidecar-name", "full", "photos"]);
    assert!(output.status.success() && said(&output).contains("2 tagged, 0 failed"), "{}", said(&output));
    assert_eq!(
        (caption(&folder, "a.png.txt"), caption(&folder, "a.webp.txt")),
        ("1girl".to_owned(), "1girl".to_owned())
    );
    let output = run(folder.path(), &["--sidecar", "txt", "--sidecar-extension", "jpg", "photos"]);
    assert_eq!(output.status.code(), Some(2), "an image is no sidecar: {}", said(&output));
}

#[test]
fn an_image_is_one_line_whatever_it_is_called_and_a_failure_is_replaced() {
    let folder = workplace();
    let (file, photos) = (folder.path().join("tags.jsonl"), folder.path().join("photos"));
    fs::write(photos.join("bad.png"), "no image").expect("a file");
    let tag = |names: &[&str]| {
        let output = run(folder.path(), &[&["--output", "tags.jsonl", "--skip-existing"], names].concat());
        let lines = fs::read_to_string(&file).expect("lines");
        (said(&output), lines.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let (log, lines) = tag(&["photos", "./photos"]);
    assert!(log.contains("1 tagged, 2 skipped, 1 failed") && lines.len() == 2, "{log} {lines:?}");
    let absolute = photos.display().to_string();
    for name in ["photos", "./photos", ".//photos/", &absolute] {
        let (log, lines) = tag(&[name]);
        assert!(log.contains("0 tagged, 1 skipped, 1 failed"), "{name}: {log}");
        assert_eq!(lines.len(), 2, "{name}: {lines:?}");
    }
    fs::copy(photos.join("a.png"), photos.join("bad.png")).expect("a copy");
    let (log, lines) = tag(&["photos"]);
    assert!(log.contains("1 tagged, 1 skipped, 0 failed"), "{log}");
    assert!(lines.len() == 2 && lines.iter().all(|line| !line.contains("error")), "{lines:?}");
    let left = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 3, "models, photos and the lines");
}

#[test]
fn the_flag_of_another_script_leads_to_ours() {
    let output = tagmill(&["tag", "--undesired_tags", "x", "photos"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("--exclude-tag TAG"), "{}", said(&output));
}

#[test]
fn a_threshold_of_a_manifest_that_has_no_effect_is_warned_of() {
    let folder = workplace();
    fs::write(folder.path().join("models/wd/tagmill.toml"), "[thresholds]\ngenral = 0.1\n").expect("a file");
    let output = run(folder.path(), &["photos"]);
    let log = said(&output);
    assert!(
        output.status.success() && log.contains("has no effect") && log.contains("did you mean `general`?"),
        "{log}"
    );
}

/// Values in place of what the tables of `docs/coming-from.md` name.
const VALUES: [(&str, &str); 9] = [
    ("N", "2"),
    ("SCORE", "0.1"),
    ("TEXT", "and"),
    ("FILE", "tags.tsv"),
    ("EXTENSION", "tags"),
    ("DIR", "models"),
    ("NAME", "wd"),
    ("MODEL", "wd"),
    ("TAG", "long_hair"),
];

/// The same for flags that are named without their value.
const BARE: [(&str, &str); 5] = [
    ("--device", "cpu"),
    ("--decode-threads", "1"),
    ("--exclude-tag", "long_hair"),
    ("--general-threshold", "0.1"),
    ("--character-threshold", "0.1"),
];

/// Every flag beside another tagger's in `docs/coming-from.md` is taken.
#[test]
fn every_flag_for_those_who_come_from_other_taggers_is_taken() {
    let page = fs::read_to_string(repository("docs/coming-from.md")).expect("it is there");
    let (mut rows, mut ran) = (0, 0);
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("ours |")) {
        let ours = row.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
        rows += 1;
        for flags in ours.split('`').skip(1).step_by(2).filter(|code| code.starts_with("--")) {
            let words = flags.split(' ').flat_map(|word| {
                let value = VALUES.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
                let bare = BARE.iter().find(|(flag, _)| flags == *flag).map(|(_, value)| *value);
                std::iter::once(value.unwrap_or(word)).chain(bare)
            });
            let words: Vec<_> = words.collect();
            let sidecar: &[&str] = if words.contains(&"--sidecar") { &[] } else { &["--sidecar", "txt"] };
            let output = run(workplace().path(), &[sidecar, &words, &["photos"]].concat());
            assert!(output.status.success(), "{row}\n{words:?}\n{}", said(&output));
            ran += 1;
        }
    }
    assert!(rows > 30 && ran > 30, "{rows} {ran}");
}
