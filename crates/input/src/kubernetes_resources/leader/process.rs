//! The part that a process takes in the election: one elector for the ledgers of all inputs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meterline_core::{Health, Metrics};
use tokio::{sync::Notify, task::JoinHandle};

use super::{
    election::LeaderElection,
    elector::{LeaderElector, Member},
};
use crate::kubernetes_resources::{
    ledger::SharedLedger, ledger_name::LedgerName, options::Options,
};

/// The election of a process, in which all of its inputs take part as one.
#[derive(Default)]
pub(crate) struct ProcessElection(Mutex<State>);

#[derive(Default)]
struct State {
    /// Until it runs.
    elector: Option<LeaderElector>,
    running: Option<Running>,
    /// How many inputs take part and have not left.
    inputs: usize,
}

struct Running {
    task: JoinHandle<()>,
    end: Arc<Notify>,
}

/// The part of one input.
pub(crate) struct Membership(Arc<ProcessElection>);

impl ProcessElection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the ledger of an input, before the election begins.
    ///
    /// # Errors
    /// When another input has a ledger of this name, or the election has begun.
    pub(crate) fn join(
        self: &Arc<Self>,
        election: &Arc<LeaderElection>,
        (name, ledger): (&LedgerName, &Arc<SharedLedger>),
        options: &Options,
        (health, metrics): (&Health, &Metrics),
    ) -> Result<Membership, String> {
        let mut state = self.state();
        if state.running.is_some() {
            return Err("the election has begun without this input".to_owned());
        }
        let elector = state.elector.get_or_insert_with(|| {
            LeaderElector::new(Arc::clone(election), options, health, metrics)
        });
        if !elector.add(Member::new(name.clone(), Arc::clone(ledger))) {
            return Err(format!(
                "another input has the ledger `{name}` as well, and the Lease has one watermark for it; give \
                 one of them a `label` beside `kubernetes_resources`"
            ));
        }
        state.inputs = state.inputs.saturating_add(1);
        Ok(Membership(Arc::clone(self)))
    }
}

impl Membership {
    /// Begins to take part in the election, the first time that an input asks for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "the last input that leaves waits for the task"
    )]
    pub(crate) fn start(&self) {
        let mut state = self.0.state();
        if let Some(elector) = state.elector.take() {
            let end = Arc::new(Notify::new());
            let task = tokio::spawn(elector.run(Arc::clone(&end)));
            state.running = Some(Running { task, end });
        }
    }

    /// The ledger changes no more. When all have left, the Lease is released, within the elector's own time limit.
    pub(crate) async fn leave(self) {
        let running = {
            let mut state = self.0.state();
            state.inputs = state.inputs.saturating_sub(1);
            (state.inputs == 0).then(|| state.running.take()).flatten()
        };
        if let Some(Running { task, end }) = running {
            end.notify_one();
            let _ = task.await;
        }
    }
}
