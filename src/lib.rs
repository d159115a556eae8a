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
//! 1. A [`door`] (the queue, live requests, files of this machine) takes a message and makes a [`delivery`] of it: a guard
//!    that answers exactly once. Dropped unanswered, it hands the job back.
//! 2. [`pipeline::accept`] reads the [`job`] and finds its image among the [`store`]s; [`pipeline::fetch`] reads the bytes.
//! 3. [`pipeline::decode`] makes one row of the model's input of them, on threads of its own.
//! 4. [`pipeline::batch`] gathers rows by a rule without a clock ([`pipeline::batch::window`]).
//! 5. [`pipeline::tag`] runs them on the thread that owns the [`model`]'s session, one for each device.
//! 6. [`pipeline::publish`] makes [`tags`] of the scores and answers: the result is published and confirmed, and only then
//!    is the job acknowledged.
//!
//! At every step a job can fail with one of the codes in [`failure`]: it is then rejected (a dead letter) or tried again.
//! Around the path: [`cli`] and [`settings`] (what the operator chose, checked before anything starts), [`command`] (what
//! runs), [`memory`] (how much images may take), [`nats`] (the connection), [`telemetry`] (logs, metrics, health),
//! [`secret`] (what must not be seen).
//!
//! Why it is so (sizes of queues, shares of memory, what keeps the promise of delivery) is told in `docs/architecture.md`.

mod backoff;
pub mod cli;
pub mod command;
pub mod delivery;
pub mod door;
pub mod failure;
pub mod job;
pub mod memory;
pub mod model;
pub mod nats;
pub mod pipeline;
pub mod secret;
pub mod settings;
pub mod store;
pub mod tags;
pub mod telemetry;
