//! Attributes a failed read to its object or to its store: an outage must not use up the attempts of jobs, and one bad
//! object must not count as an outage.
//!
//! When a read fails with a storage code, the store is probed. The verdict:
//!
//! | the probe | other reads | verdict |
//! |---|---|---|
//! | any | one has succeeded since this one began | the object's fault: its job spends an attempt |
//! | fails | none has succeeded | the store is down: its jobs wait until a probe succeeds, nothing is read, no attempt is spent |
//! | succeeds | fewer than eight objects failed in a row | the object's fault |
//! | succeeds | eight distinct objects failed in a row, none succeeds within two seconds | unknown: the job is handed back without spending an attempt, so that others are tried |

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

/// Distinct objects that must fail in a row before the store counts as refusing.
const DISTINCT: usize = 8;

/// Time limit for another read to succeed before a job is handed back.
const VERDICT: Duration = Duration::from_secs(2);

/// Maximum jobs that wait for one store. More would leave no capacity for jobs of other stores.
const WAITING: usize = 64;

/// First and longest delay between two probes of a store that is down.
const PROBE: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// Time for which the answer to a probe is reused.
const PROBED: Duration = Duration::from_secs(1);

/// State of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No outage is known.
    Well,
    /// The store answers the probe, but no object can be read. Reads of others are tried.
    Refusing,
    /// The store does not answer the probe. Its jobs wait.
    Down,
    /// The store is down and the worker stops. Its jobs stop waiting.
    Abandoned,
}

impl State {
    /// Returns `true` if a read is worth trying.
    const fn is_readable(self) -> bool {
        matches!(self, Self::Well | Self::Refusing)
    }
}

/// Time and answer of a probe.
type Probed = (Instant, Result<(), Failure>);

/// Known state of a store, shared by its copies.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    state: Arc<watch::Sender<State>>,
    failing: Arc<Mutex<Failing>>,
    /// Last answer to the probe.
    probed: Arc<tokio::sync::Mutex<Option<Probed>>>,
    /// Number of jobs that wait for the store.
    waiting: Arc<AtomicUsize>,
    /// `true` once the worker stops.
    abandoned: Arc<AtomicBool>,
}

/// Failed reads.
#[derive(Debug, Default)]
struct Failing {
    /// Hashes of objects that have failed since the last successful read.
    objects: HashSet<u64>,
    /// Time of the last successful read.
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

/// Cause of a failed read.
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

/// Counts a job as waiting for a store, until dropped.
#[derive(Debug)]
pub(crate) struct WaitingJob(Arc<AtomicUsize>);

impl Drop for WaitingJob {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Completes when one of the stores is readable and accepts another waiting job. Polls, because the end of a wait sends no
/// notification.
pub(crate) async fn any_readable(stores: &[Store]) {
    const AGAIN: Duration = Duration::from_millis(250);
    while !stores.is_empty() && !stores.iter().any(Store::takes_jobs) {
        let readable = stores.iter().map(|store| {
            let mut state = store.state();
            // Fails only if the store is dropped, but `stores` holds it.
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
    /// Reads a whole object of at most `limit` bytes for a bulk job. Waits while the store is down.
    ///
    /// # Errors
    /// As [`Store::read`], without an attempt spent if the cause is unknown; `shutting_down` if the worker stops while the
    /// store is down.
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

    /// Reads an object for an interactive job. Fails at once while the store is down.
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
            // Updates the store's state for other jobs. This caller does not wait for it.
            let (store, path, failure) = (self.clone(), path.clone(), failure.clone());
            tokio::spawn(async move { store.verdict(&path, began, &failure).await });
        }
        read
    }

    /// Reads once. A missing object counts as missing only if its bucket or folder exists.
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

    /// Records that an object was read or is known not to exist.
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

    /// Attributes the failed read of an object to the object or to the store; `began` is the start of the read. If the store
    /// is down, starts a task that probes it.
    async fn verdict(&self, path: &Path, began: Instant, failure: &Failure) -> Verdict {
        if !self.state().borrow().is_readable() {
            return Verdict::Store;
        }
        let asked = Instant::now();
        let probe = self.is_there().await;
        {
            let mut failing = self.outage.failing.lock();
            // The store may have answered others after this read began and before it stopped answering.
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

    /// Returns `true` if another read succeeds after `began`, or does so within a time limit.
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

    /// Probes the store until it answers, and then clears earlier failures.
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

    /// Completes when the store is readable.
    ///
    /// # Errors
    /// `shutting_down` if the worker stops first.
    async fn readable(&self) -> Result<(), Failure> {
        let mut state = self.outage.state.subscribe();
        match state.wait_for(|state| *state != State::Down).await.map(|state| *state) {
            Ok(State::Abandoned) => {
                Err(Failure::new(Code::ShuttingDown, format!("the worker stops while {self} does not answer")))
            }
            _ => Ok(()),
        }
    }

    /// Receiver of the state and its changes.
    #[must_use]
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.outage.state.subscribe()
    }

    /// Counts a job as waiting for this store; `None` if too many wait already.
    #[must_use]
    pub(crate) fn wait(&self) -> Option<WaitingJob> {
        let waiting = &self.outage.waiting;
        if waiting.fetch_add(1, Ordering::AcqRel) < WAITING {
            return Some(WaitingJob(Arc::clone(waiting)));
        }
        waiting.fetch_sub(1, Ordering::AcqRel);
        None
    }

    /// Returns `true` if jobs wait for this store, or a new one would have to.
    #[must_use]
    pub(crate) fn keeps_waiting(&self) -> bool {
        *self.state().borrow() != State::Well || self.outage.waiting.load(Ordering::Acquire) > 0
    }

    /// Returns `true` if the worker should pull jobs of this store.
    fn takes_jobs(&self) -> bool {
        self.state().borrow().is_readable() && self.outage.waiting.load(Ordering::Acquire) < WAITING
    }

    /// Makes jobs that wait for a store that is down, now or later, hand themselves back.
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

    /// Probes the store, at most once a second. Concurrent callers share one answer.
    async fn is_there(&self) -> Result<(), Failure> {
        let mut probed = self.outage.probed.lock().await;
        if let Some((time, answer)) = probed.as_ref()
            && time.elapsed() < PROBED
        {
            return answer.clone();
        }
        // A bucket or folder that is missing now may come back.
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
