//! tagmill tags images as a stream.
//!
//! # The path of a job
//!
//! ```text
//!  JetStream tagmill.jobs ──► accept ──► fetch ──► decode ──► batch ──► tag ──► publish ──► acknowledge
//!  (door)                     Job +      bytes     one row    window   scores   result      the Delivery
//!                             Delivery             of input                                 decides
//! ```
//!
//! 1. A [`door`] (the queue, live requests, HTTP, files of this machine) takes a message and makes a [`delivery`] of it: a
//!    guard that answers exactly once. Dropped unanswered, it hands the job back. The queue's door takes as many jobs as
//!    [`pipeline::pace`] says keep the models busy.
//! 2. The job goes in through the [`pipeline::entrance`], beside others; one that may have taken workers down, alone.
//! 3. [`pipeline::accept`] reads the [`job`], finds its image among the [`store`]s and the way to its [`model`], a lane
//!    ([`pipeline::lanes`]). [`pipeline::fetch`] reads the bytes, and has a model loaded that is not.
//! 4. [`pipeline::decode`] makes one row of the model's input of them, on threads of its own, and of
//!    requests on others. Before it and after it are
//!    short [`pipeline::queue`]s, in which what somebody waits for goes first ([`pipeline::turns`]).
//! 5. [`pipeline::batch`] gathers the rows of a lane by a rule without a clock ([`pipeline::batch::window`]).
//! 6. [`pipeline::tag`] runs them on the threads that own the model's sessions, for each device.
//! 7. [`pipeline::publish`] makes [`tags`] of the scores by the model's [`model::labels`] and answers: the result is published
//!    and confirmed, and only then is the job acknowledged.
//!
//! At every step a job can fail with one of the codes in [`failure`]: it is then rejected (a dead letter) or tried again.
//! Around the path: [`cli`] and [`settings`] (what the operator chose, checked before anything starts), [`command`] (what
//! runs), [`memory`] (how much images may take), [`nats`] (the connection and its subjects), [`telemetry`] (logs, metrics, health),
//! [`backoff`] (when to try again), [`json`] (reads it and says what is wrong), [`secret`] (what must not be seen).
//!
//! Public is what `main`, the benchmarks and the tests of the docs use: the command line, and the contract's own types.
//!
//! Why it is so (sizes of queues, shares of memory, what keeps the promise of delivery) is told in `docs/architecture.md`.

#![deny(clippy::print_stderr, reason = "a line that nobody reads must not end the program: telemetry::say")]

mod backoff;
pub mod cli;
pub mod command;
mod delivery;
mod door;
pub mod failure;
pub mod job;
mod json;
mod memory;
pub mod model;
mod nats;
pub mod pipeline;
mod secret;
mod settings;
mod store;
pub mod tags;
pub mod telemetry;
