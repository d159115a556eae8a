//! Whether this worker should be sent work: `/readyz`, and the gauge `tagmill_ready`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::metrics;

/// The state of everything readiness needs, shared by those who know and those who ask.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<State>);

#[derive(Debug, Default)]
struct State {
    model: AtomicBool,
    nats: AtomicBool,
    no_broker: AtomicBool,
    storage: AtomicBool,
    inference: AtomicBool,
    draining: AtomicBool,
    devices: OnceLock<Vec<String>>,
}

/// What `/readyz` answers.
#[expect(clippy::struct_excessive_bools, reason = "each is a question of its own")]
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// Whether all of the below are as they should be.
    pub ready: bool,
    /// The model is warmed up.
    pub model: bool,
    /// NATS is connected; absent where it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<bool>,
    /// Every store answers.
    pub storage: bool,
    /// The last batch had an image that was tagged.
    pub inference: bool,
    /// The worker is stopping.
    pub draining: bool,
    /// What inference really runs on; nothing until that is proven.
    pub devices: Vec<String>,
}

impl Health {
    /// The model is warmed up on these devices, and inference thereby proven.
    pub fn set_model_ready(&self, devices: &[String]) {
        // The first model's: a later one runs on the same.
        let _ = self.0.devices.set(devices.to_vec());
        self.0.inference.store(true, Ordering::Relaxed);
        self.set(&self.0.model, true);
    }

    /// NATS is connected, or not.
    pub fn set_nats(&self, connected: bool) {
        metrics::nats_connected(connected);
        self.set(&self.0.nats, connected);
    }

    /// NATS is not used.
    pub fn set_no_broker(&self) {
        self.set(&self.0.no_broker, true);
    }

    /// Every store answers, or not.
    pub fn set_storage(&self, answering: bool) {
        self.set(&self.0.storage, answering);
    }

    /// The last batch went well, or not.
    pub fn set_inference(&self, fine: bool) {
        self.set(&self.0.inference, fine);
    }

    /// The worker stops.
    pub fn set_draining(&self) {
        self.set(&self.0.draining, true);
    }

    fn set(&self, flag: &AtomicBool, value: bool) {
        flag.store(value, Ordering::Relaxed);
        metrics::ready(self.readiness().ready);
    }

    /// The state now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let State { model, nats, no_broker, storage, inference, draining, devices } = &*self.0;
        let devices = devices.get().cloned().unwrap_or_default();
        let nats = (!is(no_broker)).then(|| is(nats));
        let (model, storage, inference, draining) = (is(model), is(storage), is(inference), is(draining));
        Readiness {
            ready: model && nats.unwrap_or(true) && storage && inference && !draining,
            model,
            nats,
            storage,
            inference,
            draining,
            devices,
        }
    }
}
