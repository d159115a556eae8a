//! A cluster of three servers loses one.

use std::net::TcpListener;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;

use crate::support::client::Client;
use crate::support::nats::NatsServer;
use crate::support::until;
use crate::support::worker::Worker;

const JOBS: usize = 400;

/// A server of a cluster before its start. It reserves the port that the others connect to.
struct Member {
    name: String,
    port: TcpListener,
    routes: String,
}

impl Member {
    fn start(self) -> NatsServer {
        let Self { name, port, routes } = self;
        let own = route(&port);
        drop(port);
        let of_cluster = ["--cluster_name", "tagmill", "--cluster", &own, "--routes", &routes];
        NatsServer::start_with(&[&["--jetstream", "--server_name", &name], &of_cluster[..]].concat())
    }
}

fn route(port: &TcpListener) -> String {
    format!("nats://127.0.0.1:{}", port.local_addr().expect("an address").port())
}

/// Three servers with JetStream and routes to each other.
fn members() -> [Member; 3] {
    let ports = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let routes = ports.iter().map(route).collect::<Vec<_>>().join(",");
    let mut number = 0;
    ports.map(|port| {
        number += 1;
        Member { name: format!("node-{number}"), port, routes: routes.clone() }
    })
}

/// All three servers, after they have elected a leader.
async fn cluster() -> Vec<NatsServer> {
    let servers: Vec<_> = members().into_iter().map(Member::start).collect();
    let client = Client::connect(&servers[0]).await;
    // Only a leader can report that a stream does not exist.
    until("the cluster to have a leader", || async {
        let error = client.jetstream.get_stream("none").await.err()?;
        let GetStreamErrorKind::JetStream(reply) = error.kind() else { return None };
        (reply.error_code() == ErrorCode::STREAM_NOT_FOUND).then_some(())
    })
    .await;
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_cluster_that_forms() {
    let [first, second, third] = members();
    let first = first.start();
    let worker = Worker::spawn(&first, &crate::support::samples(), &["--replicas", "3"], &[]);
    worker.logged("JetStream does not answer or can't place the stream yet");
    let _others = [second.start(), third.start()];
    worker.logged("working");
    assert_eq!(worker.log().matches("place the stream").count(), 1, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_server_loses_no_job() {
    let mut servers = cluster().await;
    let others = format!("{},{}", servers[1].url(), servers[2].url());
    let arguments = ["--replicas", "3", "--nats-url", &others];
    // Acknowledgements in transit to the lost server are lost, so their jobs are redelivered after the ack wait.
    Client::connect(&servers[0]).await.make_queue(Duration::from_secs(2), 3).await;
    let worker = Worker::start_with(&servers[0], &crate::support::samples(), &arguments, &[]);
    let client = Client::connect(&servers[1]).await;
    let results = client.jetstream.get_stream("TAGMILL_RESULTS").await.expect("the worker made it");
    assert_eq!(results.cached_info().config.num_replicas, 3);
    client.submit_samples(JOBS / 2).await;
    client.results(20).await;

    // The server that the worker is connected to.
    servers[0].kill();
    let client = Client::connect(&servers[1]).await;
    for number in JOBS / 2..JOBS {
        until("the job to be stored", || async {
            let job = serde_json::json!({ "id": number.to_string(), "image": "night-sky.png" }).to_string();
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", format!("job-{number}"));
            client.try_publish("tagmill.jobs", headers, job).await.then_some(())
        })
        .await;
    }
    client.queue_is_empty().await;
    let results = client.results(JOBS).await;
    let ids: std::collections::HashSet<_> = results.iter().map(|result| result.id().to_owned()).collect();
    assert_eq!(ids.len(), JOBS);
    assert_eq!(client.count("TAGMILL_DEAD").await, 0);
    assert_eq!(worker.get("/readyz").await.0, 200);
}
