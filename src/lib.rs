//! tagmill tags images as a stream.
//!
//! # The path of a job
//!
//! ```text
//!  JetStream tagmill.jobs ─┐                     ┌─ memory budget ─┐
//!  NATS request            ├─► accept ─► fetch ─► decode ─► batch ─► tag ─► publish ─► acknowledge
//!  HTTP                    │   Job +      bytes    one row   window   scores  result     the Delivery
//!  files (tagmill tag)   ──┘   Delivery            of input                   or letter  decides
//! ```
//!
//! 1. A [`source`] (the stream, requests over NATS or HTTP, local files) turns a message into a [`delivery`]: a
//!    guard that answers exactly once. Dropped unanswered, it hands the job back. The stream's source pulls as many jobs as
//!    [`pipeline::concurrency`] estimates to keep the models busy.
//! 2. [`pipeline::accept`] reads the [`job`], locates its image among the [`store`]s and finds its [`model`] in the
//!    [`pipeline::pool`].
//! 3. [`pipeline::fetch`] reads the image's bytes, and requests the model's loading if necessary.
//! 4. [`pipeline::decode`] decodes the image and fits it to one row of the model's input, on threads of its own.
//! 5. [`pipeline::batch`] gathers the rows of a model into batches, by the rule in [`pipeline::batch::window`].
//! 6. [`pipeline::tag`] runs batches on the threads that own the model's sessions, one or more for each device.
//! 7. [`pipeline::publish`] selects [`tags`] from the scores with the model's [`model::labels`] and answers: the source
//!    publishes the result, waits for its confirmation, and only then acknowledges the job.
//!
//! [`pipeline`] creates all stages and channels in this order. The queues before decode and batch serve interactive jobs
//! before bulk ones ([`priority`]). A stage may fail a job with one of the codes in [`failure`]; the code decides whether
//! the job is rejected with a dead letter or tried again.
//!
//! # Around the path
//!
//! [`cli`] parses arguments and [`settings`] checks them before anything is opened; [`command`] has a file for each
//! subcommand. [`memory`] is the budget for images in flight, [`machine`] reads the machine's memory and GPUs, [`nats`] keeps
//! the connection and publishes confirmed answers, [`telemetry`] has logs, metrics and health. [`backoff`] computes delays
//! between attempts, [`optimize`] rewrites a model's graph, [`atomic`] replaces files and folders, [`json`] parses input and
//! names the wrong field, [`text`] decodes text files and keeps names in their line, [`terminal`] is standard output.
//!
//! The public modules are the ones used by `main`, the benchmarks and the tests of the docs: the command line, and the
//! contract's own types. `docs/architecture.md` explains the sizes of queues, the memory pools and the delivery guarantee.

#![deny(clippy::print_stderr, reason = "a line that nobody reads must not end the program: telemetry::say")]

mod atomic;
mod backoff;
pub mod cli;
pub mod command;
mod delivery;
pub mod failure;
pub mod job;
mod json;
mod machine;
mod memory;
pub mod model;
mod nats;
mod optimize;
pub mod pipeline;
pub mod priority;
mod settings;
mod source;
mod store;
pub mod tags;
pub mod telemetry;
mod terminal;
mod text;
