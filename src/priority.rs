//! The two priorities of a job, and the rule that weighs them where both wait.

/// Bulk jobs get one slot in this many where interactive ones wait as well.
const BULK_EVERY: usize = 4;

/// Priority of a job: interactive if a client waits for its answer, else bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A client waits: a request over NATS or HTTP.
    Interactive,
    /// No client waits: a job of the stream, a file of the command line.
    Bulk,
}

/// Chooses which priority goes next while both wait: interactive, but for one slot in four.
#[derive(Debug, Default)]
pub struct Weighted {
    /// Slots given away since the last one for bulk.
    since_bulk: usize,
}

impl Weighted {
    /// Gives away the next slot; returns the priority that it is for.
    pub fn next_slot(&mut self) -> Priority {
        let priority = self.upcoming();
        self.since_bulk = (self.since_bulk + 1) % BULK_EVERY;
        priority
    }

    /// The priority that the next slot is for.
    #[must_use]
    pub const fn upcoming(&self) -> Priority {
        if self.since_bulk + 1 == BULK_EVERY { Priority::Bulk } else { Priority::Interactive }
    }
}
