//! Callers of the HTTP API, and those that only keep its connections open.

use std::time::Duration;

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::client;
use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::s3::S3Server;
use crate::support::worker::{Worker, tagmill, with_descriptors};
use crate::support::{repository, samples};

/// The status of a request with this `Host`.
async fn asked(port: &str, method: &str, path: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer in time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

fn port(server: &Worker) -> String {
    let line = server.logged("address");
    let rest = line.split("0.0.0.0:").nth(1).expect("the port").to_owned();
    rest.chars().take_while(char::is_ascii_digit).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_address_only_names_of_the_operator_are_served() {
    let server = Worker::serve(&["--listen", "0.0.0.0:0", "--allowed-host", "tagmill.example"], &[]);
    let port = port(&server);
    for (host, status) in [
        ("Host: tagmill.example", 200),
        ("Host: TAGMILL.example:8080", 200),
        ("Host: 10.0.0.5:8080", 200),
        ("Host: [::1]:8080", 200),
        ("Host: localhost", 200),
        ("Host: evil.example", 403),
        ("Host: tagmill.example.evil.example", 403),
        ("Host: tagmill.example\r\nOrigin: http://evil.example", 403),
    ] {
        assert_eq!(asked(&port, "GET", "/v1/models", host).await, status, "{host}");
    }
    for path in ["/metrics", "/readyz", "/healthz", "/health"] {
        assert_eq!(asked(&port, "GET", path, "Host: 10.0.0.5:8080").await, 200, "{path} for a probe by address");
        assert_eq!(asked(&port, "GET", path, "Host: tagmill.example").await, 200, "{path}");
        assert_eq!(asked(&port, "GET", path, "Host: evil.example").await, 403, "{path}");
    }
}

/// Behind a proxy on the same machine everybody comes from there.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_asked_of_everyone() {
    let server = Worker::serve(&[], &[("TAGMILL_HTTP_TOKEN", "open-sesame".to_owned())]);
    let request = client().post(server.url("/diagnostics/vram-test")).json(&json!({ "batch_sizes": [1] }));
    assert_eq!(request.try_clone().expect("no stream").send().await.expect("an answer").status(), 401);
    assert_eq!(request.bearer_auth("open-sesame").send().await.expect("an answer").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_take_nothing_from_the_work() {
    let nats = NatsServer::start();
    let client = Client::connect(&nats).await;
    let s3 = S3Server::start("images").await;
    s3.put("images", "a.jpg", &repository("samples/orange-sunset.jpg"));
    let (url, models) = (nats.url(), repository("models").display().to_string());
    let arguments =
        ["worker", "--store", "s3://images", "--nats-url", &url, "--listen", "127.0.0.1:0", "--models", &models];
    let mut command = tagmill(&arguments);
    command.envs(s3.environment());
    let worker = Worker::run(with_descriptors(256, &command));
    worker.logged("working");
    let address = worker.address();
    let mut silent = Vec::new();
    for _ in 0..300 {
        // The system keeps those that are not accepted yet.
        let connecting = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(&address)).await;
        silent.extend(connecting.ok().and_then(Result::ok));
    }
    let began = std::time::Instant::now();
    for number in 0..20 {
        let job = json!({ "id": number.to_string(), "image": "a.jpg" }).to_string();
        client.publish("tagmill.jobs", HeaderMap::new(), job).await;
    }
    client.results(20).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(worker.log().matches("a connection can't be accepted").count() <= 2, "{}", worker.log());
    drop(silent);
    let (status, _) = worker.get("/healthz").await;
    assert_eq!(status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_over_http_names_no_endpoint() {
    let mut s3 = S3Server::start("images").await;
    s3.put("images", "a.jpg", &repository("samples/orange-sunset.jpg"));
    let server = Worker::serve(&["--store", "s3://images", "--store", &samples()], &s3.environment());
    let port = s3.environment()[0].1.rsplit(':').next().expect("a port").to_owned();
    s3.stop();
    let request = client().post(server.url("/v1/vision/caption")).json(&json!({ "image": "a.jpg" }));
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer["error"]["code"], "storage_unavailable", "{answer}");
    assert!(!answer.to_string().contains(&port) && !answer.to_string().contains("127.0.0.1"), "{answer}");
}

#[test]
fn a_password_in_a_stores_url_is_not_echoed() {
    let models = repository("models").display().to_string();
    for store in ["s3://user:hunter2@images", "s3://user:hunter2@host:9000/images", "https://user:hunter2@host/images"]
    {
        let output = tagmill(&["worker", "--models", &models, "--store", store]).output();
        let output = output.expect("it runs");
        let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.code() == Some(2) && !shown.contains("hunter2"), "{shown}");
    }
}
