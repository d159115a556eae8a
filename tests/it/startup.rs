//! A worker that cannot start reports one clear message, with the right exit code.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{consumer, stream};

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::{Fault, S3Server};
use crate::support::worker::{Worker, tagmill};
use crate::support::{repository, samples};

/// Runs a worker that must not start. Returns its exit code and last line.
fn refused(change: &[&str], environment: &[(&'static str, String)]) -> (i32, String) {
    let (models, samples) = (repository("models").display().to_string(), samples());
    let mut arguments = vec!["worker"];
    for (flag, value) in [("--listen", "127.0.0.1:0"), ("--store", samples.as_str()), ("--models", models.as_str())] {
        if !change.contains(&flag) {
            arguments.extend([flag, value]);
        }
    }
    arguments.extend(change);
    // Limited to 15 seconds, so that a worker that starts or waits nevertheless fails the test instead of hanging it.
    let mut command = Command::new("timeout");
    let tagmill = tagmill(&arguments);
    command.arg("15").arg(tagmill.get_program()).args(tagmill.get_args()).env_clear().stdin(Stdio::null());
    command.envs(tagmill.get_envs().filter_map(|(name, value)| Some((name, value?)))).envs(environment.iter().cloned());
    command.env("PATH", "/usr/bin:/bin");
    let Output { status, stderr, .. } = command.output().expect("it runs");
    let text = String::from_utf8(stderr).expect("UTF-8");
    let last = text.lines().rfind(|line| line.starts_with("tagmill:") || line.starts_with("error:")).unwrap_or(&text);
    (status.code().expect("it exits"), last.to_owned())
}

#[test]
fn wrong_settings_are_exit_code_2() {
    let empty = tempfile::tempdir().expect("a folder");
    let empty = empty.path().to_str().expect("UTF-8");
    let (a_model, nonsense) = (repository("models/demo"), repository("README.md"));
    let a_model = a_model.to_str().expect("UTF-8");
    let nonsense = nonsense.to_str().expect("UTF-8");
    let cases: [(&[&str], &str); 32] = [
        (&["--store", "ftp://host/x"], "ftp://host/x"),
        (&["--store", "images"], "s3://bucket"),
        (&["--store", "file:///no/such/folder"], "/no/such/folder"),
        (&["--models", "/no/such/folder"], "/no/such/folder"),
        (&["--models", empty], "model.onnx"),
        (&["--model", "nameless"], "demo"),
        (&["--batch-size", "0"], "--batch-size"),
        (&["--general-threshold", "1.5"], "--general-threshold"),
        (&["--prefix", "a b"], "--prefix"),
        (&["--device", "gpu"], "--device"),
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--listen", "8080"], "0.0.0.0:8080"),
        (&["--memory-budget", "lots"], "512MiB"),
        // Exceeds the range of the clock.
        (&["--window", "9223372036854775807s"], "--window"),
        (&["--max-image-pixels", "0"], "--max-image-pixels is 0"),
        (&["--max-image-bytes", "0"], "--max-image-bytes is 0"),
        (&["--jobs-max-bytes", "0"], "--jobs-max-bytes is 0"),
        (&["--live-timeout", "0s"], "--live-timeout is 0"),
        (&["--http-timeout", "0s"], "--http-timeout is 0"),
        (&["--filter", "tagmill.jobs.shop.>"], "expected shop.>"),
        (&["--filter", "tagmill.jobs"], "expected >"),
        (&["--http-timeout", "9223372036854775807s"], "--http-timeout"),
        (&["--live-timeout", "366days"], "--live-timeout"),
        (&["--batch-size", "many"], "expected a whole number"),
        (&["--batch-size", "99999999999999999999"], "the number is too large"),
        (&["--window", "25"], "with its unit"),
        (&["--replicas", "9"], "--replicas is 9: it must be from 1 to 5"),
        (&["--models", a_model], "--model demo"),
        (&["--nats-creds", "/no/such/file"], "--nats-creds"),
        (&["--nats-creds", nonsense], "--nats-creds"),
        (&["--nats-ca", "/no/such/file"], "--nats-ca"),
        (&["--nats-ca", nonsense], "--nats-ca"),
    ];
    for (change, named) in cases {
        let (code, message) = refused(change, &[]);
        assert_eq!(code, 2, "{change:?}: {message}");
        assert!(message.contains(named), "{change:?}: {message}");
    }
    let (code, message) = refused(&[], &[("TAGMILL_MEMORY_BUDGET", "1MiB".to_owned())]);
    assert!(code == 2 && message.contains("TAGMILL_MEMORY_BUDGET is 1048576"), "{message}");
}

#[test]
fn a_broken_model_is_named_with_what_is_wrong() {
    let models = tempfile::tempdir().expect("a folder");
    let model = models.path().join("broken");
    std::fs::create_dir(&model).expect("a folder");
    let with = |onnx: &[u8], labels: &str| {
        std::fs::write(model.join("model.onnx"), onnx).expect("a file");
        std::fs::write(model.join("selected_tags.csv"), labels).expect("a file");
        refused(&["--models", models.path().to_str().expect("UTF-8")], &[])
    };
    let onnx = std::fs::read(repository("models/demo/model.onnx")).expect("the demo model");
    for (onnx, labels, named) in [
        (&b"not a graph"[..], "tag_id,name,category,count\n1,a,0,1\n", "/model.onnx is damaged, or no ONNX model"),
        (&onnx, "tag_id,name,category,count\n1,a,0,1\n", "1 labels"),
        (&onnx, "name\n", "no labels"),
    ] {
        let (code, message) = with(onnx, labels);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains("`broken`") && message.contains(named), "{message}");
    }
}

#[test]
fn a_device_that_was_asked_for_is_used_or_refused() {
    let nats = NatsServer::start();
    let (code, message) = refused(&["--device", "cuda", "--nats-url", &nats.url()], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("cuda:0") && message.contains("--device"), "{message}");
}

#[test]
fn a_missing_runtime_says_how_to_get_it() {
    let (code, message) = refused(&[], &[("ORT_DYLIB_PATH", "/no/such/library.so".into())]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("/no/such/library.so") && message.contains("pip download"), "{message}");
}

#[test]
fn an_unreachable_server_is_given_up_after_ten_seconds_and_its_password_not_shown() {
    let began = Instant::now();
    let (code, message) = refused(&["--nats-url", "nats://user:hush@127.0.0.1:1"], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("127.0.0.1:1") && !message.contains("hush"), "{message}");
    assert_eq!(message.matches("efused").count(), 1, "the cause is said once: {message}");
    assert!(began.elapsed() > Duration::from_secs(8) && began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_server_that_is_not_there_is_said_once() {
    let mut worker = tagmill(&["worker", "--store", &samples(), "--listen", "127.0.0.1:0"]);
    worker.arg("--models").arg(repository("models")).args(["--nats-url", "nats://127.0.0.1:1"]);
    let mut worker = Worker::run(worker);
    assert_eq!(worker.ended().code(), Some(1), "{}", worker.log());
    assert_eq!(worker.log().matches("NATS can't be reached").count(), 1, "{}", worker.log());
}

#[test]
fn a_server_that_refuses_the_login_is_told_from_one_that_is_away() {
    let nats = NatsServer::start_with(&["--jetstream", "--user", "test", "--pass", "right"]);
    let mut submit = tagmill(&["submit", "--nats-url", &nats.url(), "--nats-user", "test", "-"]);
    let mut submit = Worker::run({
        submit.env("TAGMILL_NATS_PASSWORD", "hush");
        submit
    });
    assert_eq!(submit.ended().code(), Some(1), "{}", submit.log());
    assert!(submit.log().contains("refuses this login") && !submit.log().contains("hush"), "{}", submit.log());
    assert!(!submit.log().contains("trying again"), "{}", submit.log());
}

#[test]
fn an_endpoint_that_is_none_is_wrong_and_an_empty_address_is_not_set() {
    let endpoint = [("AWS_ENDPOINT_URL", "nonsense".to_owned())];
    let (code, message) = refused(&["--store", "s3://images"], &endpoint);
    assert!(code == 2 && message.contains("AWS_ENDPOINT_URL (or"), "{code} {message}");
    let mut submit = tagmill(&["submit", "--nats-url", "", "-"]);
    let ended = submit.env("NATS_URL", " nats://127.0.0.1:1,").output().expect("it runs");
    let log = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && log.contains("NATS at 127.0.0.1:1 within"), "{log}");
}

#[test]
fn a_server_without_jetstream_is_named_as_such() {
    let nats = NatsServer::start_with(&[]);
    let (code, message) = refused(&["--nats-url", &nats.url()], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("no JetStream"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_would_lose_or_keep_jobs_is_refused() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let config = stream::Config {
        name: "TAGMILL_JOBS".into(),
        subjects: vec!["tagmill.jobs".into()],
        ..stream::Config::default()
    };
    client.jetstream.create_stream(config.clone()).await.expect("a stream");
    let (code, message) = refused(&["--nats-url", &nats.url()], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("TAGMILL_JOBS") && message.contains("retention"), "{message}");

    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    let queue = stream::Config { retention: stream::RetentionPolicy::WorkQueue, ..config };
    let drops = stream::Config { max_messages: 10, discard: stream::DiscardPolicy::Old, ..queue.clone() };
    client.jetstream.create_stream(drops).await.expect("a stream");
    let (code, message) = refused(&["--nats-url", &nats.url()], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("TAGMILL_JOBS has discard old"), "{message}");
    client.jetstream.delete_stream("TAGMILL_JOBS").await.expect("it is there");
    let queue = client.jetstream.create_stream(queue).await.expect("a stream");
    for (config, setting) in [
        (consumer::pull::Config { max_deliver: 3, ..workers() }, "max_deliver"),
        (consumer::pull::Config { ack_policy: consumer::AckPolicy::None, ..workers() }, "ack policy"),
        (consumer::pull::Config { headers_only: true, ..workers() }, "headers_only"),
    ] {
        // A work queue only accepts the explicit policy; if the server refuses another, there is nothing to test.
        if queue.create_consumer(config).await.is_ok() {
            let (code, message) = refused(&["--nats-url", &nats.url()], &[]);
            assert_eq!(code, 1, "{message}");
            assert!(message.contains("workers") && message.contains(setting), "{message}");
            queue.delete_consumer("workers").await.expect("it is there");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_would_not_be_kept_are_refused_at_the_start() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    for (name, retention) in
        [("TAGMILL_RESULTS", stream::RetentionPolicy::WorkQueue), ("TAGMILL_DEAD", stream::RetentionPolicy::Interest)]
    {
        let subjects = vec![name.to_lowercase().replace('_', ".")];
        let config = stream::Config { name: name.into(), subjects, retention, ..stream::Config::default() };
        client.jetstream.create_stream(config).await.expect("a stream");
        let (code, message) = refused(&["--nats-url", &nats.url()], &[]);
        assert_eq!(code, 1, "{message}");
        assert!(message.contains(name) && message.contains("it must be limits"), "{message}");
        client.jetstream.delete_stream(name).await.expect("it is there");
    }
}

#[test]
fn servers_that_say_nothing_are_given_up_after_ten_seconds_together() {
    // Each server alone would time out after five seconds, and a worker that does not start is stopped after fifteen.
    let silent: Vec<_> = (0..5).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let url = |server: &std::net::TcpListener| format!("nats://{}", server.local_addr().expect("an address"));
    let urls: Vec<_> = silent.iter().map(url).collect();
    let (code, message) = refused(&["--nats-url", &urls.join(",")], &[]);
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("can't connect to NATS"), "{message}");
}

fn workers() -> consumer::pull::Config {
    consumer::pull::Config { durable_name: Some("workers".into()), ..consumer::pull::Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_exist_or_refuses_is_named() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("images").await);
    let mut environment = s3.environment();
    let url = nats.url();
    let start = async |environment: Vec<_>, store: &'static str| {
        let url = url.clone();
        let run = move || refused(&["--store", store, "--nats-url", &url], &environment);
        tokio::task::spawn_blocking(run).await.expect("no panic")
    };
    let (code, message) = start(environment.clone(), "s3://nowhere").await;
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("s3://nowhere"), "{message}");

    for (name, value) in &mut environment {
        if *name == "AWS_SECRET_ACCESS_KEY" {
            *value = "wrong-secret".into();
        }
    }
    let (code, message) = start(environment.clone(), "s3://images").await;
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("s3://images") && !message.contains("wrong-secret"), "{message}");

    environment.retain(|(name, _)| *name != "AWS_ALLOW_HTTP");
    let (code, message) = start(environment, "s3://images").await;
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("AWS_ALLOW_HTTP"), "{message}");
}

#[test]
fn credentials_that_can_not_be_had_are_named_and_waited_for() {
    let nats = NatsServer::start();
    let (url, models) = (nats.url(), repository("models").display().to_string());
    let arguments =
        ["worker", "--listen", "127.0.0.1:0", "--store", "s3://images", "--models", &models, "--nats-url", &url];
    let mut command = tagmill(&arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1").env("AWS_ALLOW_HTTP", "true");
    let worker = Worker::run(command);
    worker.logged("no credentials can be had (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_waited_for_hides_no_other() {
    let (nats, s3) = (NatsServer::start(), S3Server::start("away").await);
    s3.fault("away", Fault::Broken);
    let (url, environment) = (nats.url(), s3.environment());
    let run = move || refused(&["--store", "s3://away", "--store", "s3://nowhere", "--nats-url", &url], &environment);
    let (code, message) = tokio::task::spawn_blocking(run).await.expect("no panic");
    assert_eq!(code, 1, "{message}");
    assert!(message.contains("s3://nowhere"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_an_account_are_named_with_their_flags_and_kept() {
    let limits = "max_memory: 10M, max_file: 1G, max_bytes_required: true, max_ack_pending: 100";
    let mut nats = NatsServer::start_configured(&format!(
        "accounts {{ A {{ jetstream {{ {limits} }}, users: [{{ user: test, password: test }}] }} }}"
    ));
    nats.login = "test:test@";
    let url = nats.url();
    let start = |sizes: &'static [&'static str]| {
        let url = url.clone();
        let arguments: Vec<_> = [&["--nats-url"], &[&*url], sizes].concat();
        refused(&arguments, &[])
    };
    for (sizes, flag) in [
        (&[][..], "--jobs-max-bytes"),
        (&["--jobs-max-bytes", "100MB"], "--results-max-bytes"),
        (&["--jobs-max-bytes", "100MB", "--results-max-bytes", "2GB"], "--results-max-bytes"),
        (&["--jobs-max-bytes", "100MB", "--results-max-bytes", "100MB"], "--dead-max-bytes"),
    ] {
        let (code, message) = start(sizes);
        assert_eq!(code, 1, "{message}");
        assert!(message.contains(flag), "{message}");
    }
    let sizes = ["--jobs-max-bytes", "100MB", "--results-max-bytes", "100MB", "--dead-max-bytes", "100MB"];
    let worker = Worker::start_with(&nats, &samples(), &sizes, &[]);
    worker.logged("the account allows fewer jobs in flight");
    let options = async_nats::ConnectOptions::with_user_and_password("test".into(), "test".into());
    let client = Client::connect_with(&nats, options).await;
    assert_eq!(client.consumer().await.config.max_ack_pending, 100);
    client.submit_samples(4).await;
    client.results(4).await;
}
