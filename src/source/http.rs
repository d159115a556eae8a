//! HTTP: a request brings images, and waits for what a model says of them.
//!
//! * [`server`]: connections, health and metrics from the first moment, the rest once there is a model.
//! * `body` reads what a request brings, within its limits; `image` tells what kind of thing an image is given as.
//! * `ask` takes an image through the pipeline and waits for the answer.
//! * `tagging`, `models`, `diagnostics`, `page`: the routes.
//! * `access`: who may; `trace`: request ids; `error`: how requests are refused.

mod access;
mod ask;
mod body;
mod diagnostics;
mod error;
mod image;
mod models;
mod page;
mod peer;
pub(crate) mod server;
mod tagging;
mod trace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::routing::{MethodRouter, get, post};
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::limit::RequestLimit;
use crate::delivery::answers::Answers;
use crate::failure::{Code, Failure};
use crate::memory::Pool;
use crate::pipeline::accept::Incoming;
use crate::pipeline::pool::ModelPool;

/// The path of the memory test.
const VRAM_TEST: &str = "/diagnostics/vram-test";

/// The paths that are served before there is a model.
const OWN_PATHS: [&str; 4] = ["/health", "/healthz", "/metrics", "/readyz"];

/// Images one request may bring.
const MOST_IMAGES: usize = 1024;

/// What is served, where and to whom.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where.
    pub listen: SocketAddr,
    /// What requests must bring.
    pub token: Option<SecretString>,
    /// Whose pages may use it.
    pub origins: Origins,
    /// Names of this server besides addresses and `localhost`, in lower case.
    pub hosts: Vec<String>,
    /// How long an image may take once there is a place for it.
    pub timeout: Duration,
    /// Bytes a body may have.
    pub max_body: u64,
    /// Room for bodies.
    pub bodies: Pool,
}

/// Origins whose pages may use the API.
#[derive(Clone, Debug)]
pub(crate) enum Origins {
    /// All.
    Any,
    /// These, or none.
    These(Vec<HeaderValue>),
}

/// The source: what requests need to be answered.
#[derive(Clone)]
pub(crate) struct Http(Arc<Inner>);

struct Inner {
    settings: Settings,
    in_flight_limit: RequestLimit,
    pool: Arc<ModelPool>,
    answers: Answers,
    /// `None` once no more requests are let in; those that are hold a copy.
    to_accept: Mutex<Option<Sender<Incoming>>>,
    /// Cancelled when requests in hand are given up.
    given_up: CancellationToken,
    trial: tokio::sync::Mutex<()>,
}

impl Http {
    /// A source to this pipeline.
    #[must_use]
    pub(crate) fn new(
        settings: Settings,
        in_flight_limit: RequestLimit,
        pool: Arc<ModelPool>,
        to_accept: Sender<Incoming>,
        answers: Answers,
    ) -> Self {
        let (to_accept, given_up, trial) =
            (Mutex::new(Some(to_accept)), CancellationToken::new(), tokio::sync::Mutex::new(()));
        Self(Arc::new(Inner { settings, in_flight_limit, pool, answers, to_accept, given_up, trial }))
    }

    /// Lets in no more requests; the pipeline ends after those in hand.
    pub(crate) fn close(&self) {
        self.0.to_accept.lock().take();
    }

    /// Answers the requests in hand at once: the program ends before they are done.
    pub(crate) fn give_up(&self) {
        self.close();
        self.0.given_up.cancel();
    }

    /// The way in, for one request.
    fn to_accept(&self) -> Result<Sender<Incoming>, Failure> {
        let to_accept = self.0.to_accept.lock().clone();
        to_accept.ok_or_else(shutting_down)
    }

    /// All of the API but what needs no model.
    fn routes(&self) -> Router {
        let router = routes().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
        router.fallback(error::no_such_path).method_not_allowed_fallback(error::no_such_method).with_state(self.clone())
    }
}

/// Every path but those of health and metrics.
fn routes() -> Vec<(&'static str, MethodRouter<Http>)> {
    vec![
        ("/", get(page::show)),
        ("/openapi.json", get(page::openapi)),
        ("/v1/vision/caption", post(tagging::caption)),
        ("/v1/vision/batch-caption", post(tagging::batch_caption)),
        ("/v1/classify", post(tagging::classify)),
        ("/v1/models", get(models::list)),
        ("/v1/models/refresh", post(models::refresh)),
        (VRAM_TEST, post(diagnostics::vram_test)),
    ]
}

fn shutting_down() -> Failure {
    Failure::new(Code::ShuttingDown, "the server is stopping; ask another, or again in a moment")
}
