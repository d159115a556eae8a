//! Folders: which files are images, links, and names of any bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::{lines, photos, run, said};
use crate::support::repository;

#[test]
fn a_folder_without_images_says_what_it_looked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.heic"), "").expect("a file");
    let output = run(folder.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("there is no image") && said(&output).contains("jpeg, jpg,"), "{}", said(&output));
}

#[test]
fn no_image_is_left_out_in_silence() {
    let folder = photos();
    let path = |name: &str| folder.path().join(name);
    let copy = |name: &str| fs::copy(repository("samples/orange-sunset.jpg"), path(name)).expect("a copy");
    for name in ["a.jfif", "b.jpg_large", "no suffix", "c.HEIC", "-d.jpg", "e\nf.jpg", "._sunset.jpg", "draft.jpg"] {
        copy(name);
    }
    fs::create_dir(path("@eaDir")).expect("a folder");
    copy("@eaDir/thumbnail.jpg");
    fs::write(path("notes.txt"), "no image").expect("a file");
    fs::write(path("real.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").expect("a file");
    let output = run(folder.path(), &["--exclude", "draft*", "--verbose"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(lines(&output.stdout).len(), 9, "{}", said(&output));
    let said = said(&output);
    for part in [
        "9 tagged, ",
        " passed over: ",
        "2 hidden, or a system's own",
        "1 left out by --exclude",
        "1 no image by its name",
        if cfg!(feature = "heic") { "1 failed" } else { "1 HEIC, which builds with --features heic read" },
        "passed over: draft.jpg: left out by --exclude",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let flat = run(folder.path(), &["--no-recursive", "--match", "s*.jpg"]);
    assert_eq!(lines(&flat.stdout).into_keys().collect::<Vec<_>>(), ["sunset.jpg"]);
}

#[test]
fn links_to_folders_are_followed_once() {
    let (folder, elsewhere) = (photos(), photos());
    symlink(elsewhere.path(), folder.path().join("one")).expect("a link");
    symlink(elsewhere.path(), folder.path().join("two")).expect("a link");
    symlink(folder.path(), elsewhere.path().join("round")).expect("a link");
    symlink(folder.path().join("inner"), folder.path().join("again")).expect("a link");
    let output = run(folder.path(), &[]);
    assert!(output.status.success() && said(&output).contains("6 tagged, 0 failed"), "{}", said(&output));
}

#[test]
fn names_that_are_not_utf_8_are_two_where_they_are_two() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [&b"caf\xe9.jpg"[..], b"caf\xe8.jpg"] {
        let name = folder.path().join(OsStr::from_bytes(name));
        fs::copy(repository("samples/orange-sunset.jpg"), name).expect("a copy");
    }
    let results = folder.path().join("results.jsonl");
    let arguments = ["--output", results.to_str().expect("UTF-8"), "--skip-existing"];
    assert!(run(folder.path(), &arguments).status.success());
    let written = lines(&fs::read(&results).expect("results"));
    assert_eq!(written.into_keys().collect::<Vec<_>>(), ["caf%E8.jpg", "caf%E9.jpg"]);
    let again = run(folder.path(), &arguments);
    assert!(said(&again).contains("0 tagged, 2 skipped"), "{}", said(&again));
}
