//! A store in trouble is waited for: jobs must not spend their attempts on what is no fault of theirs.
//!
//! When a read fails with a storage code, the store itself is asked. If it does not answer either, or several reads in a
//! row failed and none went well, the trouble is the store's: it is said once, nothing is read until the store answers
//! again, and the jobs in hand wait. Otherwise the trouble is the object's, and its job alone is tried again later. So it is
//! where an object still can't be read once the store has answered again, twice: else objects that are never to be read
//! would keep all others waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use tokio::sync::watch;

use super::{Read, Store};
use crate::backoff::Backoff;
use crate::failure::{Code, Failure};
use crate::memory::Pool;

/// Reads that fail in a row before the store is at fault, even where it answers when asked.
const IN_A_ROW: u32 = 8;

/// How often the store may answer again, and an object still be waited for that can't be read.
const RECOVERIES: u32 = 2;

/// The first and the longest wait between two questions to a store in trouble.
const ASK: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// How long an answer to the question whether the store is there is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// Whether a store can be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As far as is known.
    Well,
    /// It is being waited for.
    Troubled,
    /// It is in trouble and the worker stops: waiting is over.
    Abandoned,
}

/// What is known of a store's state, shared by all its copies.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    state: Arc<watch::Sender<State>>,
    failed_in_a_row: Arc<AtomicU32>,
    /// When it last answered the question whether it is there.
    seen: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// Nobody waits any more, whatever becomes of it.
    abandoned: Arc<AtomicBool>,
}

/// What came of a read for somebody who waits as long as the store is in trouble.
pub(crate) enum Attempt {
    /// The object, or why there is none.
    Ended(Result<Read, Failure>),
    /// The store is in trouble, which showed in this: the object is to be read again once that is over.
    Waits(Failure),
}

/// Whose fault it may be that a read failed.
enum Fault {
    /// The object's.
    Objects(Failure),
    /// The store's, which may be `gone` altogether.
    Stores { failure: Failure, gone: bool },
}

impl Default for Outage {
    fn default() -> Self {
        let state = Arc::new(watch::channel(State::Well).0);
        Self { state, failed_in_a_row: Arc::default(), seen: Arc::default(), abandoned: Arc::default() }
    }
}

/// Ends when one of the stores is in trouble.
pub(crate) async fn any_troubled(stores: &[Store]) {
    let troubled = |store: &Store| {
        let mut state = store.state();
        // It fails only where the store is gone, which is held here.
        async move { drop(state.wait_for(|state| *state == State::Troubled).await) }
    };
    let mut troubled: FuturesUnordered<_> = stores.iter().map(troubled).collect();
    if troubled.next().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Ends when all of the stores can be read from.
///
/// # Errors
/// `shutting_down` where the worker stops while one can't.
pub(crate) async fn all_well(stores: &[Store]) -> Result<(), Failure> {
    for store in stores {
        store.well().await?;
    }
    Ok(())
}

impl Store {
    /// Reads an object of at most `limit` bytes whole, as [`Store::read`], once for somebody who waits as long as the store is
    /// in trouble, and then comes again. Nobody waits for an object that can't be read though the store answered again some
    /// times, of which `recoveries` keeps count.
    pub(crate) async fn read_unless_troubled(
        &self,
        path: &Path,
        limit: u64,
        room: &Pool,
        recoveries: &mut u32,
    ) -> Attempt {
        let (failure, gone) = match self.read_once(path, limit, room).await {
            Err(Fault::Stores { failure, gone }) => (failure, gone),
            Err(Fault::Objects(failure)) => return Attempt::Ended(Err(failure)),
            Ok(read) => return Attempt::Ended(Ok(read)),
        };
        let hopeless = !gone && *recoveries == RECOVERIES;
        if hopeless || !self.is_troubled(&failure).await {
            return Attempt::Ended(Err(failure));
        }
        *recoveries = (*recoveries + 1).min(RECOVERIES);
        Attempt::Waits(failure)
    }

    /// The same for somebody who waits for an answer: fails where the store is in trouble.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) async fn read_promptly(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Failure> {
        if *self.state().borrow() != State::Well {
            return Err(Failure::new(
                Code::StorageUnavailable,
                format!("{self} does not answer; it is being waited for"),
            ));
        }
        match self.read_once(path, limit, room).await {
            Ok(read) => Ok(read),
            Err(Fault::Objects(failure)) => Err(failure),
            Err(Fault::Stores { failure, .. }) => {
                self.is_troubled(&failure).await;
                Err(failure)
            }
        }
    }

    /// Reads, and sees whose fault it may be where that fails: no object can be found in a bucket or folder that is gone.
    async fn read_once(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Fault> {
        let read = self.read(path, limit, room).await;
        let fault = match read {
            Ok(read) => Ok(read),
            Err(failure) if is_storage(failure.code) => return Err(Fault::Stores { failure, gone: false }),
            Err(failure) if failure.code == Code::ImageNotFound => match self.is_there().await {
                Ok(()) => Err(Fault::Objects(failure)),
                Err(failure) => return Err(Fault::Stores { failure, gone: true }),
            },
            Err(failure) => Err(Fault::Objects(failure)),
        };
        self.outage.failed_in_a_row.store(0, Ordering::Relaxed);
        fault
    }

    /// Ends when the store can be read from.
    ///
    /// # Errors
    /// `shutting_down` where the worker stops first.
    pub(crate) async fn well(&self) -> Result<(), Failure> {
        let mut state = self.outage.state.subscribe();
        match state.wait_for(|state| *state != State::Troubled).await.map(|state| *state) {
            Ok(State::Abandoned) => {
                Err(Failure::new(Code::ShuttingDown, format!("the worker stops while {self} does not answer")))
            }
            _ => Ok(()),
        }
    }

    /// The state, now and as it changes.
    #[must_use]
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.outage.state.subscribe()
    }

    /// Lets those who wait for a store in trouble, now or later, hand their jobs back.
    pub(crate) fn abandon(&self) {
        self.outage.abandoned.store(true, Ordering::Release);
        self.outage.state.send_if_modified(|state| {
            let troubled = *state == State::Troubled;
            if troubled {
                *state = State::Abandoned;
            }
            troubled
        });
    }

    /// Whether the bucket or folder exists, and if not, why: asked at most once a second.
    async fn is_there(&self) -> Result<(), Failure> {
        let mut seen = self.outage.seen.lock().await;
        if seen.is_some_and(|time| time.elapsed() < BELIEVED) {
            return Ok(());
        }
        let there = self.asked().await;
        *seen = there.is_ok().then(Instant::now);
        there
    }

    /// Asks whether the store is there. One that was, and is not any more, may come back.
    async fn asked(&self) -> Result<(), Failure> {
        self.probe().await.map_err(|failure| match failure.code {
            Code::ImageNotFound => Failure::new(Code::StorageUnavailable, failure.message),
            _ => failure,
        })
    }

    /// Whether a failed read is the store's fault; if so, somebody waits for the store from now on.
    async fn is_troubled(&self, failure: &Failure) -> bool {
        let in_a_row = self.outage.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if *self.outage.state.borrow() != State::Well {
            return true;
        }
        let asked = self.asked().await;
        if in_a_row < IN_A_ROW && asked.is_ok() {
            return false;
        }
        let newly = self.outage.state.send_if_modified(|state| {
            let well = *state == State::Well;
            if well {
                let abandoned = self.outage.abandoned.load(Ordering::Acquire);
                *state = if abandoned { State::Abandoned } else { State::Troubled };
            }
            well
        });
        if newly {
            // What the store says of itself tells more than what it says of one object.
            let reason = asked.as_ref().err().unwrap_or(failure);
            tracing::error!(store = %self, code = %reason.code, error = %reason, "the store is in trouble; waiting for it");
            tokio::spawn(self.clone().recover(in_a_row));
        }
        true
    }

    /// Asks until the store answers. One that answers questions but fails reads is given longer and longer.
    async fn recover(self, in_a_row: u32) {
        let mut tries = u64::from(in_a_row / IN_A_ROW);
        loop {
            tries += 1;
            tokio::time::sleep(ASK.after(tries)).await;
            if self.probe().await.is_ok() {
                break;
            }
        }
        tracing::info!(store = %self, "the store answers again");
        let _ = self.outage.state.send_replace(State::Well);
    }
}

fn is_storage(code: Code) -> bool {
    matches!(code, Code::StorageUnavailable | Code::StorageDenied)
}
