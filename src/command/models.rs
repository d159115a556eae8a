//! `tagmill models`: looks after the folder of models.

mod pull;

use super::Failed;
use crate::cli::ModelsCommand;

pub(super) async fn run(command: ModelsCommand) -> Result<(), Failed> {
    match command {
        ModelsCommand::Pull(args) => pull::run(*args).await,
    }
}
