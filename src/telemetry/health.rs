//! Whether this worker should be sent work: `/readyz`, and the gauge `tagmill_ready`.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::metrics;

/// The state of everything readiness needs, shared by those who know and those who ask.
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

/// What `/readyz` answers.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Readiness {
    /// Whether all of the below are as they should be.
    pub ready: bool,
    /// The model is warmed up.
    pub model: bool,
    /// NATS is connected; absent where it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<bool>,
    /// Every store answers.
    pub storage: bool,
    /// The model scores: an image of the last batch was tagged, or a blank one after it.
    pub inference: bool,
    /// No result or dead letter waits to be stored; absent where NATS is not used. It does not decide over `ready`: requests
    /// are answered meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<bool>,
    /// The worker is stopping.
    pub draining: bool,
    /// What inference really runs on; nothing until that is proven.
    pub devices: Vec<String>,
}

impl Health {
    /// The model is warmed up on these devices.
    pub(crate) fn set_model_ready(&self, devices: &[String]) {
        self.set(|state| {
            state.model = true;
            // The first model's: a later one runs on the same.
            if state.devices.is_empty() {
                state.devices = devices.to_vec();
            }
        });
    }

    /// NATS is connected, or not.
    pub(crate) fn set_nats(&self, connected: bool) {
        metrics::nats_connected(connected);
        self.set(|state| state.nats = connected);
    }

    /// NATS is not used.
    pub(crate) fn set_no_broker(&self) {
        self.set(|state| state.no_broker = true);
    }

    /// Every store answers, or not.
    pub(crate) fn set_storage(&self, answering: bool) {
        self.set(|state| state.storage = answering);
    }

    /// The model scores, or not.
    pub(crate) fn set_inference(&self, fine: bool) {
        self.set(|state| state.inference = fine);
    }

    /// No answer waits to be confirmed, or some do.
    pub(crate) fn set_answers(&self, confirmed: bool) {
        self.set(|state| state.answers_wait = !confirmed);
    }

    /// The worker stops.
    pub(crate) fn set_draining(&self) {
        self.set(|state| state.draining = true);
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock();
        change(&mut state);
        // Still locked, so that the gauge says in the end what the state is in the end.
        metrics::ready(state.readiness().ready);
    }

    /// The state now.
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
