//! `tagmill models pull`, from a local hub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::support::hub::{Fault, Hub, REPOSITORY};
use crate::support::repository;
use crate::support::worker::tagmill;

const TAGS: &[u8] = b"tag_id,name,category,count\n1,red,0,9\n";

/// Bytes that differ from every shift of themselves.
fn weights() -> Vec<u8> {
    (0..40_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// An empty folder of models, and commands on it.
struct Models(TempDir);

impl Models {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Folder of the model.
    fn model(&self) -> PathBuf {
        self.0.path().join("tagger")
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.model().join(file)).expect("a file")
    }

    /// Visible names in the model's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.model()).into_iter().flatten();
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// Pulls with more arguments. Returns the exit code and the output.
    fn pull(&self, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String) {
        let folder = self.0.path().to_str().expect("UTF-8");
        let arguments = [&["models", "pull", "--models", folder], arguments].concat();
        let output = tagmill(&arguments).envs(environment.iter().copied()).output().expect("it runs");
        let Output { status, stdout, stderr } = output;
        assert!(stdout.is_empty(), "what it says is for people");
        (status.code().expect("it exits"), String::from_utf8(stderr).expect("UTF-8"))
    }

    /// Pulls the one repository.
    fn pull_from(&self, hub: &Hub) -> (i32, String) {
        self.pull(&[REPOSITORY], &[("HF_ENDPOINT", &hub.url())])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_downloaded_whole_and_a_second_run_downloads_nothing() {
    let onnx = fs::read(repository("models/demo/model.onnx")).expect("the demo model");
    let files = [("README.md", &b"#"[..]), ("model.onnx", &onnx), ("selected_tags.csv", TAGS), ("config.json", b"{}")];
    let (hub, models) = (Hub::start(&files).await, Models::new());
    let (code, said) = models.pull_from(&hub);
    assert_eq!(code, 0, "{said}");
    assert_eq!(models.names(), ["config.json", "model.onnx", "selected_tags.csv"]);
    assert_eq!((models.read("model.onnx"), models.read("selected_tags.csv")), (onnx.clone(), TAGS.to_vec()));
    assert!(said.contains("someone/tagger is in") && said.contains("3 files"), "{said}");
    let seen = hub.seen();
    assert!(seen.last().expect("requests").path.ends_with("/model.onnx"), "until the end, the folder is no model");

    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, said.matches("there already").count()), (0, 3), "{said}");
    assert_eq!(hub.seen().len(), 1, "only the listing");

    // A changed file is downloaded again.
    fs::write(models.model().join("model.onnx"), vec![0; onnx.len()]).expect("a file");
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, said.matches("there already").count()), (0, 2), "{said}");
    assert_eq!(models.read("model.onnx"), onnx);

    let (code, said) = models.pull(&[REPOSITORY, "--as", "mine"], &[("HF_ENDPOINT", &hub.url())]);
    assert_eq!(code, 0, "{said}");
    assert!(models.0.path().join("mine/model.onnx").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_midway_goes_on_where_it_ended() {
    let weights = weights();
    let (hub, models) = (Hub::start(&[("model.onnx", &weights), ("selected_tags.csv", TAGS)]).await, Models::new());
    hub.fault("listing", &[Fault::Status(503)]);
    hub.fault("model.onnx", &[Fault::Cut(20_000), Fault::Status(500), Fault::Cut(5_000)]);
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, models.read("model.onnx") == weights), (0, true), "{said}");
    let stored: Vec<_> = hub.seen().into_iter().filter(|seen| seen.storage).collect();
    let ranges: Vec<_> = stored.iter().map(|seen| seen.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=20000-"), Some("bytes=20000-"), Some("bytes=25000-")]);
    assert_eq!(stored.iter().map(|seen| seen.sent).sum::<usize>(), weights.len(), "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_goes_on_where_the_last_one_ended() {
    let weights = weights();
    let (hub, models) = (Hub::start(&[("model.onnx", &weights), ("selected_tags.csv", TAGS)]).await, Models::new());
    hub.fault("model.onnx", &[Fault::Cut(30_000), Fault::Status(404)]);
    let (code, said) = models.pull_from(&hub);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("404") && said.contains("model.onnx"), "{said}");
    assert_eq!(models.names(), ["model.onnx.part", "selected_tags.csv"]);
    hub.seen();

    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, models.read("model.onnx") == weights), (0, true), "{said}");
    assert_eq!(models.names(), ["model.onnx", "selected_tags.csv"]);
    let seen = hub.seen();
    assert_eq!(seen.len(), 3, "the listing, and one file with its redirect: {seen:?}");
    assert_eq!((seen[2].range.as_deref(), seen[2].sent), (Some("bytes=30000-"), weights.len() - 30_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_download_is_refused_and_removed() {
    for (file, size) in [("model.onnx", weights().len()), ("selected_tags.csv", TAGS.len())] {
        let (hub, models) =
            (Hub::start(&[("model.onnx", &weights()), ("selected_tags.csv", TAGS)]).await, Models::new());
        hub.fault(file, &[Fault::Corrupt]);
        let (code, said) = models.pull_from(&hub);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&format!("{file} is not what the hub lists")) && said.contains("SHA-"), "{said}");
        assert!(!models.names().iter().any(|name| name.starts_with(file)), "{:?}", models.names());
        let (code, said) = models.pull_from(&hub);
        assert_eq!((code, models.read(file).len()), (0, size), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_another_file_is_noticed_and_replaced() {
    let weights = weights();
    let (hub, models) = (Hub::start(&[("model.onnx", &weights), ("selected_tags.csv", TAGS)]).await, Models::new());
    fs::create_dir(models.model()).expect("a folder");
    fs::write(models.model().join("model.onnx.part"), [7; 1000]).expect("a file");
    fs::write(models.model().join("selected_tags.csv.part"), [7; 1000]).expect("a file");
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, models.read("model.onnx") == weights), (0, true), "{said}");
    assert_eq!(models.read("selected_tags.csv"), TAGS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_hash_is_not_called_verified() {
    let (hub, models) = (Hub::start(&[("model.onnx", &weights()), ("selected_tags.csv", TAGS)]).await, Models::new());
    hub.fault("listing", &[Fault::Unhashed]);
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, said.matches("downloaded but not verified").count()), (0, 2), "{said}");
    assert!(!said.contains("and verified"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_used_where_it_is_needed_and_nowhere_else() {
    let (hub, models) = (Hub::start(&[("model.onnx", &weights()), ("selected_tags.csv", TAGS)]).await, Models::new());
    hub.lock("hf_hush");
    let (code, said) = models.pull_from(&hub);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(REPOSITORY) && said.contains("401") && said.contains("set HF_TOKEN"), "{said}");
    assert_eq!(models.names(), [""; 0]);

    let url = hub.url();
    let with = |token| [("HF_ENDPOINT", url.as_str()), ("HF_TOKEN", token), ("RUST_LOG", "trace")];
    let (code, said) = models.pull(&[REPOSITORY], &with("hf_wrong"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("has expired") && !said.contains("hf_wrong"), "{said}");

    hub.seen();
    let (code, said) = models.pull(&[REPOSITORY], &with("hf_hush"));
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("hf_hush"), "{said}");
    let seen = hub.seen();
    assert!(seen.iter().any(|seen| seen.storage), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.authorization.is_some() != seen.storage), "{seen:?}");
    let written = fs::read_to_string(models.model().join(".pulled")).expect("a record");
    assert!(!written.contains("hf_hush") && !written.contains("signed-by-the-hub"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_it_only_looks() {
    let (hub, models) = (Hub::start(&[("model.onnx", &weights()), ("selected_tags.csv", TAGS)]).await, Models::new());
    let url = hub.url();
    let offline = || models.pull(&[REPOSITORY], &[("HF_ENDPOINT", &url), ("HF_HUB_OFFLINE", "1")]);
    let (code, said) = offline();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("HF_HUB_OFFLINE") && said.contains("was not downloaded"), "{said}");
    assert_eq!(models.pull_from(&hub).0, 0);
    hub.seen();

    let (code, said) = offline();
    assert_eq!((code, said.matches("there already").count()), (0, 2), "{said}");
    fs::write(models.model().join("selected_tags.csv"), "tag_id,name\n").expect("a file");
    let (code, said) = offline();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("HF_HUB_OFFLINE") && said.contains("selected_tags.csv"), "{said}");
    assert!(hub.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_is_exit_code_2() {
    let (hub, models) = (Hub::start(&[("model.onnx", b"graph")]).await, Models::new());
    let url = hub.url();
    let cases: [(&[&str], (&str, &str), &str); 8] = [
        (&["tagger"], ("HF_ENDPOINT", &url), "OWNER/NAME"),
        (&["someone/../tagger"], ("HF_ENDPOINT", &url), "OWNER/NAME"),
        (&["https://elsewhere.example/someone/tagger"], ("HF_ENDPOINT", &url), "OWNER/NAME"),
        (&[REPOSITORY, "--as", "../tagger"], ("HF_ENDPOINT", &url), "--as"),
        (&[REPOSITORY, "--revision", "../main"], ("HF_ENDPOINT", &url), "--revision"),
        (&[REPOSITORY], ("HF_ENDPOINT", "huggingface.co"), "HF_ENDPOINT"),
        (&[REPOSITORY], ("HF_ENDPOINT", "http://user:hush@127.0.0.1"), "HF_TOKEN"),
        (&[REPOSITORY], ("HF_TOKEN", "hush\u{7}"), "HF_TOKEN"),
    ];
    for (arguments, variable, named) in cases {
        let (code, said) = models.pull(arguments, &[variable]);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(named) && !said.contains("hush"), "{arguments:?}: {said}");
    }
    assert!(hub.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_had_is_named() {
    let cases: [(&[&str], &[&str], &str); 6] = [
        (&["model.onnx"], &["someone/else"], "can't pull someone/else"),
        (&["model.onnx"], &[REPOSITORY, "--revision", "v9"], "`v9` (--revision)"),
        (&["model.safetensors", "selected_tags.csv"], &[REPOSITORY], "only model.safetensors, selected_tags.csv"),
        (&["large.onnx", "small.onnx"], &[REPOSITORY], "--file: large.onnx, small.onnx"),
        (&["large.onnx", "small.onnx"], &[REPOSITORY, "--file", "tiny.onnx"], "but large.onnx, small.onnx"),
        (&["model.onnx", "../../outside.csv"], &[REPOSITORY], "\"../../outside.csv\", which is no safe name"),
    ];
    for (files, arguments, named) in cases {
        let files: Vec<_> = files.iter().map(|name| (*name, &b"x"[..])).collect();
        let (hub, models) = (Hub::start(&files).await, Models::new());
        let (code, said) = models.pull(arguments, &[("HF_ENDPOINT", &hub.url())]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(named), "{said}");
        assert_eq!(fs::read_dir(&models.0).expect("it is there").count(), 0, "nothing is left of it");
        assert!(hub.seen().len() == 1, "a listing, and no file");
    }
    let (code, said) = Models::new().pull(&[REPOSITORY], &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("127.0.0.1") && said.contains("5 times in a row") && said.contains("HF_ENDPOINT"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_graphs_comes_with_its_own_files() {
    let files = ["v1/model.onnx", "v1/tags.json", "v2/model.onnx", "v2/model.onnx.data", "v2/tags.json", "all.txt"];
    let files = files.map(|name| (name, name.as_bytes()));
    let (hub, models) = (Hub::start(&files).await, Models::new());
    let (code, said) = models.pull(&[REPOSITORY, "--file", "v2/model.onnx"], &[("HF_ENDPOINT", &hub.url())]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(models.names(), ["all.txt", "model.onnx", "model.onnx.data", "tags.json"]);
    assert_eq!(models.read("tags.json"), b"v2/tags.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_its_own_are_not_overwritten() {
    let files: [(&str, &[u8]); 3] = [("model.onnx", b"graph"), ("tags.csv", TAGS), ("tagmill.toml", b"# theirs")];
    let (hub, models) = (Hub::start(&files).await, Models::new());
    let write = |name: &str, text: &str| fs::write(models.model().join(name), text).expect("a file");
    fs::create_dir(models.model()).expect("a folder");
    write("model.onnx", "another graph");
    write("tagmill.toml", "# mine");
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, models.names()), (1, vec!["model.onnx".into(), "tagmill.toml".into()]), "{said}");
    assert!(said.contains("tagger/model.onnx") && said.contains("--as"), "{said}");

    // An identical file counts as the repository's, whatever its origin, and a manifest may be edited.
    write("model.onnx", "graph");
    let (code, said) = models.pull_from(&hub);
    assert_eq!((code, models.read("tagmill.toml")), (0, b"# mine".to_vec()), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_and_a_second_download_are_said_clearly() {
    let (hub, models) = (Hub::start(&[("model.onnx", &weights()), ("selected_tags.csv", TAGS)]).await, Models::new());
    fs::create_dir(models.model()).expect("a folder");
    let busy = fs::File::open(models.model()).expect("a folder");
    busy.lock().expect("nobody else has it");
    let (code, said) = models.pull_from(&hub);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another download") && said.contains("tagger"), "{said}");
    drop(busy);

    std::os::unix::fs::symlink(Path::new("/dev/full"), models.model().join("model.onnx.part")).expect("a link");
    let (code, said) = models.pull_from(&hub);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no room for model.onnx (156.2 KiB)") && said.contains("tagger"), "{said}");
}
