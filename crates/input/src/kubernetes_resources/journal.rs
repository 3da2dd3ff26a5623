//! Keeps the state file up with the ledger.

use std::{sync::Arc, time::Duration};

use meterline_core::HealthHandle;
use tokio::{sync::Notify, time::timeout};
use tracing::{error, info};

use super::{
    shared::Shared,
    state::{StateError, StateFile},
};

/// Changes that come closer together than this are written as one.
const GATHER: Duration = Duration::from_millis(20);
/// How old the file's notion of when the view was complete may become.
const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Writes what changes until `end`, and then what is left. Nothing goes out that is not written, so
/// a disk that is full holds back windows; it loses none.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut file: StateFile,
    health: HealthHandle,
    end: Arc<Notify>,
) {
    let mut failures = 0_u32;
    let mut ending = false;
    loop {
        let (changes, generation, seen) = shared.take_changes(file.needs_everything());
        let write = tokio::task::spawn_blocking(move || {
            let written = file.write(&changes, &seen);
            (file, written)
        });
        let written;
        (file, written) = match write.await {
            Ok(outcome) => outcome,
            // Writing does not panic; and without the file nothing more goes out.
            Err(panic) => {
                health.not_ready(format!("the state file is lost: {panic}"));
                return;
            }
        };
        match written {
            Ok(()) => {
                if failures > 0 {
                    info!(failures, "the state file can be written again");
                    failures = 0;
                    health.ready("");
                }
                shared.written(generation);
            }
            Err(reason) => {
                failures = failures.saturating_add(1);
                tell(&health, &reason, failures);
            }
        }
        if ending {
            return;
        }
        let pause = if failures == 0 {
            GATHER
        } else {
            let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
            FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
        };
        ending = timeout(pause, end.notified()).await.is_ok();
        if !ending && failures == 0 {
            tokio::select! {
                () = end.notified() => ending = true,
                () = shared.dirty.notified() => {}
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }
}

fn tell(health: &HealthHandle, reason: &StateError, failures: u32) {
    let told = format!("the state file cannot be written: {reason}");
    if failures.is_power_of_two() {
        error!(
            failures,
            "{told}; trying again, windows wait and nothing is lost"
        );
    }
    health.not_ready(told);
}
