//! Tells an object's fault from its store's: jobs must not spend their attempts on an outage, and one object must not be taken
//! for one.
//!
//! When a read fails with a storage code, the store is probed. The verdict:
//!
//! | the probe | other reads | verdict |
//! |---|---|---|
//! | any | one went well since this one began | the object's fault: its job spends an attempt |
//! | fails | none went well | the store is down: its jobs wait until it answers the probe, nothing is read, no attempt is spent |
//! | answers | fewer than eight objects failed in a row | the object's fault |
//! | answers | eight distinct objects failed in a row, none went well within a moment | unknown: the job is handed back without spending an attempt, so that others are tried |

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::path::Path;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Read, Store};
use crate::backoff::Backoff;
use crate::failure::{Code, Failure};
use crate::memory::Pool;

/// Distinct objects that fail in a row before the store may be refusing all of them.
const DISTINCT: usize = 8;

/// How long a job waits for another read to go well before it is handed back.
const VERDICT: Duration = Duration::from_secs(2);

/// Jobs that may wait for a store at a time; with more, those that wait for another store would find no place.
const WAITING: usize = 64;

/// The first and the longest wait between two probes of a store that is down.
const PROBE: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// How long the answer to a probe is good for.
const PROBED: Duration = Duration::from_secs(1);

/// Whether a store can be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// As far as is known.
    Well,
    /// It answers the probe, and no object can be read. Others are tried.
    Refusing,
    /// It does not answer the probe: it is waited for.
    Down,
    /// It is down and the worker stops: waiting is over.
    Abandoned,
}

impl State {
    /// Returns `true` if reading is worth a try.
    const fn is_readable(self) -> bool {
        matches!(self, Self::Well | Self::Refusing)
    }
}

/// When the probe was answered, and how.
type Probed = (Instant, Result<(), Failure>);

/// Known state of a store, shared by its copies.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    state: Arc<watch::Sender<State>>,
    failing: Arc<Mutex<Failing>>,
    /// The last answer to the probe, and when it came.
    probed: Arc<tokio::sync::Mutex<Option<Probed>>>,
    /// Jobs that wait for it.
    waiting: Arc<AtomicUsize>,
    /// The worker stops.
    abandoned: Arc<AtomicBool>,
}

/// Failed reads.
#[derive(Debug, Default)]
struct Failing {
    /// Hashes of objects that failed since the last read that went well.
    objects: HashSet<u64>,
    /// When a read last went well.
    read: Option<Instant>,
}

impl Failing {
    fn add(&mut self, path: &Path) {
        if self.objects.len() < DISTINCT {
            let mut hasher = DefaultHasher::new();
            path.as_ref().hash(&mut hasher);
            self.objects.insert(hasher.finish());
        }
    }
}

/// Whose fault a failed read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Object,
    Store,
    Unknown,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::channel(State::Well).0),
            failing: Arc::default(),
            probed: Arc::default(),
            waiting: Arc::default(),
            abandoned: Arc::default(),
        }
    }
}

/// A job that waits for a store, until dropped.
#[derive(Debug)]
pub(crate) struct WaitingJob(Arc<AtomicUsize>);

impl Drop for WaitingJob {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Ends when one of the stores can be read from and has room for jobs that wait for it. It polls, because the end of a wait
/// sends no notification.
pub(crate) async fn any_readable(stores: &[Store]) {
    const AGAIN: Duration = Duration::from_millis(250);
    while !stores.is_empty() && !stores.iter().any(Store::takes_jobs) {
        let readable = stores.iter().map(|store| {
            let mut state = store.state();
            // It fails only where the store is gone, which is held here.
            async move { drop(state.wait_for(|state| state.is_readable()).await) }
        });
        let mut readable: FuturesUnordered<_> = readable.collect();
        let _ = tokio::time::timeout(AGAIN, readable.next()).await;
        if stores.iter().any(|store| store.state().borrow().is_readable()) {
            tokio::time::sleep(AGAIN / 10).await;
        }
    }
}

impl Store {
    /// Reads an object of at most `limit` bytes whole, once there is room, for a bulk job. Waits while the store is down.
    ///
    /// # Errors
    /// As [`Store::read`], handed back where nothing is known of whose fault it is; `shutting_down` where the worker stops
    /// while the store is down.
    pub(crate) async fn read_through_outage(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Failure> {
        loop {
            self.readable().await?;
            let began = Instant::now();
            let failure = match self.read_once(path, limit, room).await {
                Ok(read) => return Ok(read),
                Err(failure) if is_storage(failure.code) => failure,
                Err(failure) => return Err(failure),
            };
            match self.verdict(path, began, &failure).await {
                Verdict::Object => return Err(failure),
                Verdict::Store => {}
                Verdict::Unknown if self.other_read(began).await => return Err(failure),
                Verdict::Unknown => return Err(failure.without_attempt()),
            }
        }
    }

    /// The same for an interactive job: fails at once while the store is down.
    ///
    /// # Errors
    /// As [`Store::read`].
    pub(crate) async fn read_promptly(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Failure> {
        if !self.state().borrow().is_readable() {
            let message = format!("{self} does not answer; it is being waited for");
            return Err(Failure::new(Code::StorageUnavailable, message));
        }
        let began = Instant::now();
        let read = self.read_once(path, limit, room).await;
        if let Err(failure) = read.as_ref()
            && is_storage(failure.code)
        {
            // The store's state for others follows; this caller does not wait for it.
            let (store, path, failure) = (self.clone(), path.clone(), failure.clone());
            tokio::spawn(async move { store.verdict(&path, began, &failure).await });
        }
        read
    }

    /// Reads; of a bucket or folder that is gone no object is missing.
    async fn read_once(&self, path: &Path, limit: u64, room: &Pool) -> Result<Read, Failure> {
        let read = self.read(path, limit, room).await;
        if let Err(failure) = &read {
            if is_storage(failure.code) {
                return read;
            }
            if failure.code == Code::ImageNotFound {
                self.is_there().await?;
            }
        }
        self.went_well();
        read
    }

    /// An object was read, or known not to be there.
    fn went_well(&self) {
        let mut failing = self.outage.failing.lock();
        failing.read = Some(Instant::now());
        failing.objects.clear();
        drop(failing);
        let refused = self.outage.state.send_if_modified(|state| {
            let refusing = *state == State::Refusing;
            if refusing {
                *state = State::Well;
            }
            refusing
        });
        if refused {
            tracing::info!(store = %self, "objects of the store can be read again");
        }
    }

    /// Whose fault it is that this object, whose read began then, can't be read. Where it is the store's, somebody probes the
    /// store from now on.
    async fn verdict(&self, path: &Path, began: Instant, failure: &Failure) -> Verdict {
        if !self.state().borrow().is_readable() {
            return Verdict::Store;
        }
        let asked = Instant::now();
        let probe = self.is_there().await;
        {
            let mut failing = self.outage.failing.lock();
            // A store that does not answer now may have answered others since this read began.
            let silent = probe.as_ref().is_err_and(|failure| failure.code == Code::StorageUnavailable);
            let since = if silent { asked } else { began };
            if failing.read.is_some_and(|read| read > since) {
                return Verdict::Object;
            }
            if probe.is_ok() {
                failing.add(path);
                if failing.objects.len() < DISTINCT {
                    return Verdict::Object;
                }
            }
        }
        match probe {
            Ok(()) => {
                self.refuses(failure);
                Verdict::Unknown
            }
            Err(reason) => {
                self.goes_down(&reason);
                Verdict::Store
            }
        }
    }

    /// Returns `true` if another object is read soon that was asked for no earlier than this.
    async fn other_read(&self, began: Instant) -> bool {
        let mut state = self.state();
        let well = async { drop(state.wait_for(|state| *state != State::Refusing).await) };
        let _ = tokio::time::timeout(VERDICT, well).await;
        self.outage.failing.lock().read.is_some_and(|read| read > began)
    }

    fn refuses(&self, failure: &Failure) {
        let newly = self.outage.state.send_if_modified(|state| {
            let well = *state == State::Well;
            if well {
                *state = State::Refusing;
            }
            well
        });
        if newly {
            tracing::error!(
                store = %self, code = %failure.code, error = %failure,
                "the store answers, but no object can be read; jobs are handed back until one can"
            );
        }
    }

    fn goes_down(&self, reason: &Failure) {
        let abandoned = self.outage.abandoned.load(Ordering::Acquire);
        let newly = self.outage.state.send_if_modified(|state| {
            let readable = state.is_readable();
            if readable {
                *state = if abandoned { State::Abandoned } else { State::Down };
            }
            readable
        });
        if newly {
            tracing::error!(store = %self, code = %reason.code, error = %reason, "the store is in trouble; waiting for it");
            tokio::spawn(self.clone().recover());
        }
    }

    /// Probes the store until it answers; what failed before counts no more.
    async fn recover(self) {
        let mut tries = 0;
        loop {
            tries += 1;
            tokio::time::sleep(PROBE.after(tries)).await;
            if self.probe().await.is_ok() {
                break;
            }
        }
        tracing::info!(store = %self, "the store answers again");
        self.outage.failing.lock().objects.clear();
        let _ = self.outage.state.send_replace(State::Well);
    }

    /// Ends when the store can be read from.
    ///
    /// # Errors
    /// `shutting_down` where the worker stops first.
    async fn readable(&self) -> Result<(), Failure> {
        let mut state = self.outage.state.subscribe();
        match state.wait_for(|state| *state != State::Down).await.map(|state| *state) {
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

    /// Counts a job as waiting for this store; `None` where too many do.
    #[must_use]
    pub(crate) fn wait(&self) -> Option<WaitingJob> {
        let waiting = &self.outage.waiting;
        if waiting.fetch_add(1, Ordering::AcqRel) < WAITING {
            return Some(WaitingJob(Arc::clone(waiting)));
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// Returns `true` if jobs wait for this store, or would.
    #[must_use]
    pub(crate) fn keeps_waiting(&self) -> bool {
        *self.state().borrow() != State::Well || self.outage.waiting.load(Ordering::Acquire) > 0
    }

    /// Returns `true` if jobs of this store are worth pulling.
    fn takes_jobs(&self) -> bool {
        self.state().borrow().is_readable() && self.outage.waiting.load(Ordering::Acquire) < WAITING
    }

    /// Lets those who wait for a store that is down, now or later, hand their jobs back.
    pub(crate) fn abandon(&self) {
        self.outage.abandoned.store(true, Ordering::Release);
        self.outage.state.send_if_modified(|state| {
            let down = *state == State::Down;
            if down {
                *state = State::Abandoned;
            }
            down
        });
    }

    /// Probes the store, at most once a second; those who ask meanwhile get the same answer.
    async fn is_there(&self) -> Result<(), Failure> {
        let mut probed = self.outage.probed.lock().await;
        if let Some((time, answer)) = probed.as_ref()
            && time.elapsed() < PROBED
        {
            return answer.clone();
        }
        // One that was there and is not any more may come back.
        let answer = self.probe().await.map_err(|failure| match failure.code {
            Code::ImageNotFound => Failure::new(Code::StorageUnavailable, failure.message),
            _ => failure,
        });
        *probed = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn is_storage(code: Code) -> bool {
    matches!(code, Code::StorageUnavailable | Code::StorageDenied)
}
