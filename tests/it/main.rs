//! Integration tests in one program: real workers, a real nats-server, a real S3 protocol server, and ONNX Runtime itself.
#![expect(unreachable_pub, reason = "there is nobody outside to reach it")]

mod bad_jobs;
mod bench;
mod buckets;
mod chaos;
mod cluster;
mod crashes;
mod dashboards;
mod dead;
mod deploy;
mod docs;
mod events;
mod faults;
mod filter;
mod gpu;
mod help;
mod hostile;
mod http;
mod independence;
mod init;
mod live;
mod log;
mod models;
mod optimize;
mod page;
mod pull;
mod quarantine;
mod reference;
mod startup;
mod stops;
mod stream;
mod submit;
mod support;
mod tag;
mod telemetry;
