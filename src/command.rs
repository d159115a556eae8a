//! Subcommands of the program, one file each.

mod bar;
mod bench;
mod dead;
mod generate;
mod images;
mod init;
mod lines;
mod models;
mod samples;
mod select;
mod serve;
mod signals;
mod submit;
mod tag;
mod tagging;
mod worker;

use std::fmt;
use std::time::Duration;

use crate::cli::Command;
use crate::model::Unusable;
use crate::model::catalog::NoModel;
use crate::pipeline::tag::onnx::CannotLoad;
use crate::settings::Invalid;
use crate::telemetry::say;

/// Time limit for the clean-up of libraries at exit.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Error that ends the program, with its kind.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// An error in the settings, found before any connection is made.
    #[error("{}", said(.0))]
    Settings(anyhow::Error),
    /// An error at run time.
    #[error("{}", said(.0))]
    Running(anyhow::Error),
}

/// Formats an error with its causes. Skips causes that an error's own text contains.
fn said(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    causes.fold(error.to_string(), |said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") })
}

/// Formats a count with its noun, plural if necessary.
fn how_many<N: Copy + fmt::Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    format!("{count} {noun}{}", if count == N::from(1) { "" } else { "s" })
}

impl Failed {
    /// 2 for wrong settings, 1 for everything else.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 2,
            Self::Running(_) => 1,
        }
    }

    fn settings(error: impl Into<anyhow::Error>) -> Self {
        Self::Settings(error.into())
    }

    fn running(error: impl Into<anyhow::Error>) -> Self {
        Self::Running(error.into())
    }
}

impl From<Invalid> for Failed {
    fn from(invalid: Invalid) -> Self {
        Self::settings(invalid)
    }
}

impl From<NoModel> for Failed {
    fn from(error: NoModel) -> Self {
        match error {
            NoModel::Store(_) => Self::running(error),
            other => Self::settings(other),
        }
    }
}

impl From<Unusable> for Failed {
    fn from(error: Unusable) -> Self {
        Self::settings(error)
    }
}

impl From<CannotLoad> for Failed {
    fn from(error: CannotLoad) -> Self {
        match error {
            CannotLoad::Model(error) => Self::settings(error),
            other => Self::running(other),
        }
    }
}

/// Runs a command to completion.
///
/// # Errors
/// If the command fails; the error contains the exit code.
pub fn run(command: Command) -> Result<(), Failed> {
    // Two of the linked libraries could use a TLS provider each; they share this one. Fails only if one is already set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failed::running)?;
    let result = runtime.block_on(async {
        match command {
            Command::Worker(args) => worker::run(*args).await,
            Command::Tag(args) => tag::run(*args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Serve(args) => serve::run(*args).await,
            Command::Init(args) => init::run(*args).await,
            Command::Submit(args) => Box::pin(submit::run(*args)).await,
            Command::Dead(args) => dead::run(args).await,
            Command::Models(args) => models::run(args).await,
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
        }
    });
    // A run of the model or a read of standard input may still block a thread; do not wait for it.
    runtime.shutdown_background();
    std::thread::spawn(end_for_certain);
    result
}

/// Aborts a process that does not end by itself: at exit, the libraries of a hung device wait for the device.
fn end_for_certain() {
    std::thread::sleep(LAST_WORDS);
    say("tagmill: a library does not let the process end; ending it");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;

    use super::*;

    /// An error whose text contains its cause, as ours do.
    #[derive(Debug, thiserror::Error)]
    #[error("can't connect: {source}")]
    struct Named {
        source: io::Error,
    }

    #[test]
    fn every_cause_is_said_once() {
        let source = || io::Error::other("timed out");
        assert_eq!(Failed::running(Named { source: source() }).to_string(), "can't connect: timed out");
        let failed = Err::<(), _>(Named { source: source() }).context("nothing was published").map_err(Failed::Running);
        assert_eq!(failed.expect_err("it failed").to_string(), "nothing was published: can't connect: timed out");
        let failed = Err::<(), _>(source()).context("`a` can't be written").map_err(Failed::Settings);
        assert_eq!(failed.expect_err("it failed").to_string(), "`a` can't be written: timed out");
    }
}
