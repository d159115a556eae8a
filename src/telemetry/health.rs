//! Readiness of this worker for jobs: `/readyz`, and the gauge `tagmill_ready`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::metrics;

/// State of everything that readiness depends on, shared by its writers and readers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health(Arc<Mutex<State>>);

#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Debug, Default)]
struct State {
    model: bool,
    nats: bool,
    no_broker: bool,
    storage: bool,
    inference: bool,
    answers_wait: bool,
    draining: bool,
    devices: Vec<String>,
}

/// Answer of `/readyz`.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Readiness {
    /// `true` if the worker should receive jobs.
    pub ready: bool,
    /// The model is warmed up.
    pub model: bool,
    /// NATS is connected; absent if it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<bool>,
    /// Every store answers.
    pub storage: bool,
    /// Inference succeeds: an image of the last batch was tagged, or a blank one after it.
    pub inference: bool,
    /// No result or dead letter waits to be stored; absent if NATS is not used. `ready` does not depend on it: requests are
    /// answered in the meantime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// The worker is stopping.
    pub draining: bool,
    /// Devices that inference runs on; empty until they are verified.
    pub devices: Vec<String>,
}

impl Health {
    /// Sets the model as warmed up on these devices.
    pub(crate) fn set_model_ready(&self, devices: &[String]) {
        self.set(|state| {
            state.model = true;
            // Keeps the devices of the first model: later models run on the same.
            if state.devices.is_empty() {
                state.devices = devices.to_vec();
            }
        });
    }

    /// Sets the state of the NATS connection.
    pub(crate) fn set_nats(&self, connected: bool) {
        metrics::nats_connected(connected);
        self.set(|state| state.nats = connected);
    }

    /// Sets NATS as not used.
    pub(crate) fn set_no_broker(&self) {
        self.set(|state| state.no_broker = true);
    }

    /// Sets the state of the stores: `true` if every one answers.
    pub(crate) fn set_storage(&self, answering: bool) {
        self.set(|state| state.storage = answering);
    }

    /// Sets the state of inference: `true` if it succeeds.
    pub(crate) fn set_inference(&self, fine: bool) {
        self.set(|state| state.inference = fine);
    }

    /// Sets the state of answers: `true` if none waits to be confirmed.
    pub(crate) fn set_answers(&self, confirmed: bool) {
        self.set(|state| state.answers_wait = !confirmed);
    }

    /// Sets the worker as stopping.
    pub(crate) fn set_draining(&self) {
        self.set(|state| state.draining = true);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        // Under the lock, so that concurrent changes leave the gauge equal to the state.
        metrics::ready(state.readiness().ready);
    }

    /// Current readiness.
    #[must_use]
    pub(crate) fn readiness(&self) -> Readiness {
        self.0.lock().readiness()
    }
}

impl State {
    fn readiness(&self) -> Readiness {
        let &Self { model, nats, no_broker, storage, inference, answers_wait, draining, ref devices } = self;
        let (nats, answers) = ((!no_broker).then_some(nats), (!no_broker).then_some(!answers_wait));
        let ready = model && nats.unwrap_or(true) && storage && inference && !draining;
        Readiness { ready, model, nats, storage, inference, answers, draining, devices: devices.clone() }
    }
}
