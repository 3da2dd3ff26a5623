//! The input with a ledger that the test fills.

use meterline_core::{Cause, Message};

use super::*;
use crate::kubernetes_resources::{
    testing::{Parts, WATCH, observation, options},
    watch::Cluster,
};

/// An input without watches whose view is complete as of `current`.
struct Scene {
    parts: Parts,
    input: KubernetesResources,
}

impl Scene {
    fn new(current: i64, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options(Cluster::default());
        change(&mut options);
        let parts = Parts::new(options, 0);
        parts.ledger.synced(WATCH, true);
        parts.ledger.alive(WATCH, current);
        let input = KubernetesResources::new(
            Vec::new(),
            Vec::new(),
            None,
            None,
            parts.options.clone(),
            Arc::clone(&parts.ledger),
            Arc::clone(&parts.report),
        );
        Self { parts, input }
    }

    /// One pod that ran from 1 to 9, in the only window that is complete.
    fn with_one_window() -> Self {
        let scene = Self::new(10, |_| ());
        scene.parts.ledger.observe(observation("a", 1, Some(9)));
        scene
    }

    async fn read(&mut self) -> (Batch, Ack) {
        self.input.read().await.unwrap().unwrap()
    }

    /// Whether a read waits, although time passes.
    async fn waits(&mut self) -> bool {
        let read = timeout(Duration::from_secs(30), self.input.read());
        read.await.is_err()
    }

    fn watermark(&self) -> i64 {
        self.parts.ledger.safe_watermark()
    }
}

fn uids(batch: &[Message]) -> Vec<String> {
    let uid = |it: &Message| it.identity().unwrap().uid.to_string();
    batch.iter().map(uid).collect()
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_delivered_moves_the_watermark() {
    let mut scene = Scene::with_one_window();
    let (batch, ack) = scene.read().await;
    assert_eq!(uids(&batch), ["a"]);
    assert_eq!(scene.watermark(), 0);
    ack.resolve(Outcome::Delivered);
    assert!(scene.waits().await);
    assert_eq!(scene.watermark(), 10);
    assert_eq!(scene.parts.metric("ledger_windows_settled"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_failed_is_sent_again_after_a_pause() {
    let mut scene = Scene::with_one_window();
    let (first, ack) = scene.read().await;
    drop(ack);
    let begun = Instant::now();
    let (second, ack) = scene.read().await;
    assert!(begun.elapsed() >= PAUSE_AFTER_FAILURE);
    assert_eq!(uids(&first), uids(&second));
    assert_eq!(scene.parts.metric("ledger_windows_settled"), 0.0);
    ack.resolve(Outcome::Delivered);
    assert!(scene.waits().await);
    assert_eq!(scene.watermark(), 10);
}

#[tokio::test(start_paused = true)]
async fn rejected_pieces_are_kept_and_the_watermark_moves_on() {
    let mut scene = Scene::with_one_window();
    let (_, ack) = scene.read().await;
    ack.resolve(Outcome::rejected(
        Cause::Refused,
        "openmeter",
        "no such meter",
    ));
    assert!(scene.waits().await);
    assert_eq!(scene.watermark(), 10);
    let rejected = scene.parts.ledger.with_ledger(|it| it.rejected_seconds());
    assert_eq!(rejected, 8);
}

#[tokio::test(start_paused = true)]
async fn a_window_waits_until_the_state_file_has_it() {
    let mut scene = Scene::new(10, |it| it.has_state = true);
    scene.parts.ledger.observe(observation("a", 1, Some(9)));
    assert!(scene.waits().await);
    let (_, generation, _) = scene.parts.ledger.take_changes(false);
    scene.parts.ledger.written(generation);
    assert_eq!(uids(&scene.read().await.0), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_made_while_the_lease_ran_out_is_not_sent() {
    let is_standby = |it: &mut Options| (it.has_state, it.is_elected) = (true, true);
    let mut scene = Scene::new(10, is_standby);
    let ledger = Arc::clone(&scene.parts.ledger);
    ledger.observe(observation("a", 1, Some(9)));
    ledger.lead_until(Instant::now() + Duration::from_secs(3_600));
    assert!(scene.waits().await, "the state file does not have it");
    ledger.lead_until(Instant::now());
    let (_, generation, _) = ledger.take_changes(false);
    ledger.written(generation);
    assert!(scene.waits().await);
    // Once this replica leads again it is sent.
    ledger.lead_until(Instant::now() + Duration::from_secs(3_600));
    ledger.written(u64::MAX);
    assert_eq!(uids(&scene.read().await.0), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_large_window_is_yielded_in_parts_and_is_whole_even_when_the_input_stops() {
    let mut scene = Scene::new(10, |_| ());
    for number in 0..PIECES + 1 {
        let pod = observation(&format!("p-{number:05}"), 1, None);
        scene.parts.ledger.observe(pod);
    }
    let (first, first_ack) = scene.read().await;
    assert_eq!(first.len(), PIECES);
    assert!(
        scene.input.stop(),
        "a part of the window is still to be yielded"
    );
    let (second, second_ack) = scene.read().await;
    assert_eq!(uids(&second), [format!("p-{PIECES:05}")]);
    assert!(scene.input.read().await.unwrap().is_none());
    // One part alone settles nothing.
    first_ack.resolve(Outcome::Delivered);
    assert_eq!(scene.watermark(), 0);
    second_ack.resolve(Outcome::Delivered);
    scene.input.close().await;
    assert_eq!(scene.watermark(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_stops_begins_no_window() {
    let mut scene = Scene::with_one_window();
    assert!(!scene.input.stop());
    assert!(scene.input.read().await.unwrap().is_none());
    scene.input.close().await;
    assert_eq!(scene.watermark(), 0);
    let left = scene.input.left();
    assert_eq!((left.lost, left.persisted), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_that_is_dropped_before_the_close_is_a_failure() {
    let mut scene = Scene::with_one_window();
    let (_, ack) = scene.read().await;
    scene.input.stop();
    drop(ack);
    scene.input.close().await;
    assert_eq!(scene.watermark(), 0);
}
