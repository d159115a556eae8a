//! The way into the pipeline, for every source: jobs come in beside each other, and a suspect comes in alone.

use std::sync::Arc;

use tokio::sync::{RwLock, mpsc};
use tokio_util::sync::CancellationToken;

use super::accept::Incoming;
use crate::delivery::permit::Permit;

/// Where sources bring their jobs.
#[derive(Clone)]
pub(crate) struct Gate {
    accept: mpsc::Sender<Incoming>,
    /// Read by every job in flight, written by one that runs alone. It is fair: a suspect is not kept out for ever.
    company: Arc<RwLock<()>>,
}

impl Gate {
    pub(super) fn new(accept: mpsc::Sender<Incoming>) -> Self {
        Self { accept, company: Arc::default() }
    }

    /// Brings a job in, beside others; while one runs alone, or waits to, this waits too.
    pub(crate) async fn admit(&self, incoming: Incoming) {
        let permit = Permit::Shared(Arc::clone(&self.company).read_owned().await);
        self.enter(incoming, permit).await;
    }

    /// The same where that takes no waiting.
    ///
    /// # Errors
    /// Gives the job back where it does.
    pub(crate) async fn try_admit(&self, incoming: Incoming) -> Result<(), Incoming> {
        match Arc::clone(&self.company).try_read_owned() {
            Ok(company) => {
                self.enter(incoming, Permit::Shared(company)).await;
                Ok(())
            }
            Err(_) => Err(incoming),
        }
    }

    /// The same, but not after `stop`.
    ///
    /// # Errors
    /// Gives the job back where its turn has not come by then.
    pub(crate) async fn admit_until(&self, stop: &CancellationToken, incoming: Incoming) -> Result<(), Incoming> {
        let Some(company) = stop.run_until_cancelled(Arc::clone(&self.company).read_owned()).await else {
            return Err(incoming);
        };
        self.enter(incoming, Permit::Shared(company)).await;
        Ok(())
    }

    /// Brings the jobs of one message in once nothing else is in flight; nothing else comes in until they have their answers.
    ///
    /// # Errors
    /// Gives them back where something is `in_the_way` by then.
    pub(crate) async fn admit_alone_unless(
        &self,
        in_the_way: impl Future<Output = ()>,
        jobs: Vec<Incoming>,
    ) -> Result<(), Vec<Incoming>> {
        let alone = tokio::select! {
            biased;
            () = in_the_way => return Err(jobs),
            alone = Arc::clone(&self.company).write_owned() => alone,
        };
        let alone = Arc::new(alone);
        for incoming in jobs {
            self.enter(incoming, Permit::Exclusive(Arc::clone(&alone))).await;
        }
        Ok(())
    }

    async fn enter(&self, mut incoming: Incoming, permit: Permit) {
        incoming.delivery.enter(permit);
        // Refused only where the pipeline is gone: the delivery inside hands its job back.
        drop(self.accept.send(incoming).await);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;
    use crate::delivery::tests::noted;
    use crate::pipeline::accept::Request;

    #[tokio::test]
    async fn a_suspect_waits_for_the_others_and_they_for_it() {
        let (accept, mut accepted) = mpsc::channel(8);
        let gate = Gate::new(accept);
        let mut told = Vec::new();
        let mut job = |id: &str| {
            let (delivery, answers) = noted(id);
            told.push(answers);
            Incoming { request: Request::Message("{}".into()), queued: Duration::ZERO, delivery }
        };
        gate.admit(job("first")).await;
        let stop = CancellationToken::new();
        let mut alone = Box::pin(gate.admit_alone_unless(stop.cancelled(), vec![job("suspect")]));
        assert!((&mut alone).now_or_never().is_none(), "the first is in flight");
        let late = gate.try_admit(job("late")).await.expect_err("a suspect waits");
        drop(accepted.recv().await.expect("the first"));
        assert!(alone.await.is_ok(), "its turn has come");
        let late = gate.try_admit(late).await.expect_err("it runs alone");
        let suspect = accepted.recv().await.expect("the suspect");
        assert_eq!(suspect.delivery.id, "suspect");
        let more = vec![job("more")];
        let stopped =
            async { tokio::join!(gate.admit_until(&stop, late), gate.admit_alone_unless(stop.cancelled(), more)) };
        let mut stopped = Box::pin(stopped);
        assert!((&mut stopped).now_or_never().is_none(), "it runs alone");
        stop.cancel();
        let (late, more) = stopped.await;
        let late = late.expect_err("its turn has not come");
        assert_eq!(more.expect_err("nor has that of the next suspect")[0].delivery.id, "more");
        drop(suspect);
        gate.admit(late).await;
        assert_eq!(accepted.recv().await.expect("the last").delivery.id, "late");
    }
}
