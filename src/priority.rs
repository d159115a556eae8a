//! The two priorities of a job, and the rule that weighs them while both wait.

/// Bulk jobs get one slot in this many while interactive ones also wait.
const BULK_EVERY: usize = 4;

/// Priority of a job: interactive if a client waits for its answer, else bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A client waits: a request over NATS or HTTP.
    Interactive,
    /// No client waits: a job of the stream, a file of the command line.
    Bulk,
}

/// Chooses the priority of the next slot while both wait: interactive, except for one slot in four.
#[derive(Debug, Default)]
pub struct Weighted {
    /// Slots assigned since the last one for bulk.
    since_bulk: usize,
}

impl Weighted {
    /// Assigns the next slot and returns its priority.
    pub fn next_slot(&mut self) -> Priority {
        let priority = self.upcoming();
        self.since_bulk = (self.since_bulk + 1) % BULK_EVERY;
        priority
    }

    /// Priority of the next slot.
    #[must_use]
    pub const fn upcoming(&self) -> Priority {
        if self.since_bulk + 1 == BULK_EVERY { Priority::Bulk } else { Priority::Interactive }
    }
}
