//! What the program does: one file per subcommand.

pub mod bench;
pub mod dead;
pub mod generate;
pub mod models;
pub mod serve;
mod signals;
pub mod submit;
pub mod tag;
mod tagging;
pub mod worker;

use crate::cli::Command;
use crate::model::catalog::NoModel;
use crate::settings::Invalid;

/// Why the program ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Something in the settings, noticed before any connection was made.
    #[error("{}", with_causes(.0))]
    Settings(anyhow::Error),
    /// Something that happened.
    #[error("{}", with_causes(.0))]
    Running(anyhow::Error),
}

/// An error and its causes, but for those whose text is said already: many errors quote theirs.
fn with_causes(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
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

/// Runs a command to its end.
///
/// # Errors
/// Where it failed; the error's exit code tells how.
pub fn run(command: Command) -> Result<(), Failed> {
    // Two of the linked libraries could bring a TLS provider each; they share this one. It fails only where one is set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failed::running)?;
    let result = runtime.block_on(async {
        match command {
            Command::Worker(args) => worker::run(*args).await,
            Command::Tag(args) => tag::run(*args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Serve(args) => serve::run(*args).await,
            Command::Submit(args) => Box::pin(submit::run(*args)).await,
            Command::Dead(args) => dead::run(args).await,
            Command::Models(args) => models::run(args).await,
            Command::Completions(args) => generate::completions(&args),
            Command::Man(args) => generate::man(&args),
        }
    });
    // A run of the model, or a read of standard input, may still hold a thread: nobody waits for it.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn every_cause_is_said_and_none_twice() {
        let error = anyhow!("refused").context("no connection: refused").context("the start failed (--nats-url)");
        let said = "the start failed (--nats-url): no connection: refused";
        assert_eq!(Failed::running(error).to_string(), said);
        let error = anyhow!("no such file").context("`list` can't be read");
        assert_eq!(Failed::settings(error).to_string(), "`list` can't be read: no such file");
    }
}
