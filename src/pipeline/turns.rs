//! Whose turn it is where both wait: what somebody waits for, and what nobody does. The former goes first, but the latter
//! gets one turn in so many, lest it never gets any.

/// Of the turns, one in so many is for what nobody waits for.
const OTHERS: usize = 4;

/// Turns at one place.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Those since the last one for others.
    passed: usize,
}

impl Turns {
    /// Whether the next turn, of those when both wait, is for what nobody waits for.
    pub(crate) fn next_is_for_others(&mut self) -> bool {
        self.passed = (self.passed + 1) % OTHERS;
        self.passed == 0
    }
}
