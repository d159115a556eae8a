//! `tagmill init`: a queue before any worker, and the messages that clients publish to it and read.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::repository;
use crate::support::worker::{Worker, tagmill};

async fn init(nats: &NatsServer, arguments: &[&str]) -> Output {
    let url = nats.url();
    let mut command = tagmill(&[&["init", "--nats-url", &url], arguments].concat());
    tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic")
}

#[track_caller]
fn said(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_published_before_the_first_worker_are_not_lost() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let lost = client.try_publish("tagmill.jobs", async_nats::HeaderMap::new(), "{}".into()).await;
    assert!(!lost, "nobody keeps it");
    let made = said(&init(&nats, &["--jobs-max-bytes", "1MiB"]).await);
    assert!(
        made.contains("streams TAGMILL_JOBS, TAGMILL_RESULTS, TAGMILL_DEAD and consumer workers are there"),
        "{made}"
    );
    client.submit("early", "orange-sunset.jpg").await;
    said(&init(&nats, &["--jobs-max-bytes", "1MiB"]).await);
    assert_eq!(client.count("TAGMILL_JOBS").await, 1, "what exists is left as it is");
    let _worker = Worker::start(&nats);
    assert_eq!(client.results(1).await[0].id(), "early");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_queue_each_get_their_consumer() {
    let nats = NatsServer::start();
    let made = said(&init(&nats, &["--filter", "shop.>", "--filter", "blog.>"]).await);
    assert!(
        made.contains("consumer workers-shop are there") && made.contains("consumer workers-blog are there"),
        "{made}"
    );
    let overlap = init(&nats, &["--filter", "*.eu"]).await;
    assert_eq!(overlap.status.code(), Some(1), "another has some of these jobs");
}

#[test]
fn a_server_that_is_not_there_is_exit_code_1_and_wrong_settings_are_2() {
    let nowhere = tagmill(&["init", "--nats-url", "nats://127.0.0.1:1"]).output().expect("it runs");
    assert_eq!(nowhere.status.code(), Some(1));
    for wrong in [["--replicas", "0"], ["--filter", "tagmill.jobs.shop"], ["--prefix", "a b"]] {
        let refused = tagmill(&["init", wrong[0], wrong[1]]).output().expect("it runs");
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
}

/// The client in `docs/messages.md` runs unchanged and receives every answer, including those to plain jobs.
#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_in_the_documentation_has_every_answer() {
    let text = std::fs::read_to_string(repository("docs/messages.md")).expect("it is there");
    let script = text.split("```python\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a client");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("client.py"), script).expect("a file");
    // Installed beside the server by `make test`.
    let server = std::env::var("TAGMILL_TEST_NATS_SERVER").expect("run the tests with `make test`");
    let runtime = Path::new(&server).parent().expect("a folder").to_owned();
    let library = std::fs::read_dir(&runtime).expect("it is there").flatten().map(|entry| entry.path());
    let library =
        library.filter(|path| path.to_string_lossy().contains("/nats-py-")).max().expect("`make test` installs it");

    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let python = async |arguments: &'static [&str]| {
        let mut command = Command::new("python3");
        command.arg("client.py").args(arguments).current_dir(folder.path());
        command.env("PYTHONPATH", &library).env("NATS_URL", nats.url());
        let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (published, said_first) = python(&["orange-sunset.jpg"]).await;
    assert!(!published && said_first.contains("NoStreamResponse"), "a job that nobody keeps is an error: {said_first}");

    said(&init(&nats, &[]).await);
    let _worker = Worker::start(&nats);
    let below = json!({ "id": "below", "image": "blue-ocean.webp" }).to_string();
    client.publish("tagmill.jobs.shop.eu", async_nats::HeaderMap::new(), below).await;
    let bad = json!({ "id": 7, "image": "missing.jpg" }).to_string();
    client.publish("tagmill.jobs.shop.eu", async_nats::HeaderMap::new(), bad).await;
    let (ended, log) = python(&["orange-sunset.jpg", "missing.jpg"]).await;
    assert!(ended, "{log}");
    let (again, log) = python(&[]).await;
    assert!(again, "{log}");
    let query = "import sqlite3\ndb = sqlite3.connect('tags.db')\n\
        for row in db.execute('select id, coalesce(error, (select tag from tags where tags.id = images.id and category != \
        \"rating\" order by score desc)) from images'): print('|'.join(row))\n\
        print('ratings|%d' % db.execute('select count(*) from tags where category = \"rating\"').fetchone())";
    let rows = Command::new("python3").args(["-c", query]).current_dir(folder.path()).output().expect("it runs");
    let rows = String::from_utf8(rows.stdout).expect("text");
    let rows: BTreeSet<_> = rows.lines().collect();
    let expected =
        ["orange-sunset.jpg|orange", "missing.jpg|image_not_found", "below|blue", "7|image_not_found", "ratings|8"];
    assert_eq!(rows, BTreeSet::from(expected));
}
