//! `tagmill models pull`: downloads a model from the hub, and shows how it goes.

use anyhow::Context;
use bytesize::ByteSize;

use crate::cli::models::ModelsPullArgs;
use crate::command::bar::Bar;
use crate::command::{Failed, how_many};
use crate::model::hub::{self, File, Order, Settings, Step, Watch};
use crate::model::repository::Repository;
use crate::settings;
use crate::telemetry::{has_terminal, say};

/// Files below this size come too quickly to say more than that they came.
const LARGE: u64 = 10 << 20;

pub(super) async fn run(args: ModelsPullArgs) -> Result<(), Failed> {
    let hub = Settings::from_environment().map_err(Failed::settings)?;
    let ModelsPullArgs { repository, models, name, revision, file, log: _ } = args;
    let Repository::Folder(models) = settings::models(&models, None)? else {
        return Err(Failed::settings(anyhow::anyhow!("a model is downloaded into a folder, not a bucket (--models)")));
    };
    let folder = models.join(name.as_ref().map_or(repository.name(), hub::FolderName::as_str));
    let order = Order { repository, revision, file, folder };
    let mut display = Display::new();
    let files = tokio::select! {
        files = hub::pull(&hub, &order, &mut display) => files,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failed::running(anyhow::anyhow!("interrupted; run it again, and it goes on where it stopped")));
        }
    };
    let files = files.with_context(|| format!("can't pull {}", order.repository)).map_err(Failed::Running)?;
    let size = ByteSize(files.iter().map(|file| file.size).sum());
    let count = how_many(files.len(), "file");
    say(format_args!("{} is in {}: {count}, {size}", order.repository, order.folder.display()));
    Ok(())
}

/// Shows a bar on a terminal, else lines.
struct Display {
    terminal: bool,
    bar: Bar,
    /// Tenths of the file that are there.
    tenths: u64,
}

impl Display {
    fn new() -> Self {
        Self { terminal: has_terminal(), bar: Bar::hidden(), tenths: 0 }
    }

    fn begin(&mut self, file: &File, from: u64) {
        if self.terminal {
            self.bar.clear();
            self.bar = Bar::of_file(file.name(), file.size, from);
        } else if from > 0 {
            say(format_args!("{}: going on after {} of {}", file.name(), ByteSize(from), ByteSize(file.size)));
        } else {
            say(format_args!("{}: downloading {}", file.name(), ByteSize(file.size)));
        }
        self.tenths = tenths(from, file.size);
    }

    fn more(&mut self, file: &File, total: u64) {
        self.bar.set_position(total);
        let tenths = tenths(total, file.size);
        if !self.terminal && file.size >= LARGE && tenths > self.tenths && tenths < 10 {
            say(format_args!("{}: {tenths}0 %", file.name()));
        }
        self.tenths = tenths;
    }
}

impl Watch for Display {
    fn see(&mut self, file: &File, step: Step) {
        match step {
            Step::Present => say(format_args!("{}: there already", file.name())),
            Step::Began { from } => self.begin(file, from),
            Step::Received { total } => self.more(file, total),
            Step::Done => {
                self.bar.clear();
                let how =
                    if file.is_verifiable() { "and verified" } else { "but not verified: the hub lists no hash of it" };
                say(format_args!("{}: downloaded {how}", file.name()));
            }
        }
    }
}

fn tenths(total: u64, size: u64) -> u64 {
    total.saturating_mul(10).checked_div(size).unwrap_or(10)
}
