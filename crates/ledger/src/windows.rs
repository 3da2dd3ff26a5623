//! The windows that were handed out, and the watermark behind them.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    interval::{UnixSeconds, Window},
    types::{Accounting, DeliveryTag},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WindowState {
    InFlight(DeliveryTag),
    Failed,
    /// Or given up: it is not handed out again.
    Delivered,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HandedOut {
    pub(crate) window: Window,
    pub(crate) state: WindowState,
    pub(crate) seconds: i64,
    /// How it is billed, independent of the configuration when it is handed out again. Older versions of the state do
    /// not hold it.
    #[serde(default)]
    pub(crate) accounting: Option<Accounting>,
}

/// See the module documentation.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    /// Nothing before this is billed.
    pub(crate) horizon: UnixSeconds,
    /// End of the last window that was handed out. What lies before is never changed, only added to.
    pub(crate) emitted: UnixSeconds,
    /// End of the last window of the unbroken run that was delivered.
    pub(crate) watermark: UnixSeconds,
    /// Windows between watermark and `emitted`, by start.
    by_start: BTreeMap<UnixSeconds, HandedOut>,
    /// Starts of the windows in flight.
    tags: HashMap<u64, UnixSeconds>,
}

impl Windows {
    pub(crate) fn new(horizon: UnixSeconds) -> Self {
        Self::restore(horizon, horizon, horizon, BTreeMap::new())
    }

    /// The windows that the state holds. Those that were in flight are handed out again.
    pub(crate) fn restore(
        horizon: UnixSeconds,
        emitted: UnixSeconds,
        watermark: UnixSeconds,
        mut by_start: BTreeMap<UnixSeconds, HandedOut>,
    ) -> Self {
        for window in by_start.values_mut() {
            if matches!(window.state, WindowState::InFlight(_)) {
                window.state = WindowState::Failed;
            }
        }
        Self {
            horizon,
            emitted,
            watermark,
            by_start,
            tags: HashMap::new(),
        }
    }

    /// The windows between watermark and `emitted`, by start.
    pub(crate) fn by_start(&self) -> &BTreeMap<UnixSeconds, HandedOut> {
        &self.by_start
    }

    /// The first window that failed.
    pub(crate) fn failed(&self) -> Option<Window> {
        let failed = |it: &&HandedOut| it.state == WindowState::Failed;
        self.by_start.values().find(failed).map(|it| it.window)
    }

    /// The window that is in flight with this tag.
    pub(crate) fn in_flight(&self, tag: DeliveryTag) -> Option<&HandedOut> {
        let start = self.tags.get(&tag.0)?;
        self.by_start.get(start)
    }

    /// Records a window that is handed out, or is delivered without being handed out.
    pub(crate) fn record(&mut self, handed_out: HandedOut) {
        let start = handed_out.window.start;
        self.by_start.insert(start, handed_out);
        if let WindowState::InFlight(tag) = handed_out.state {
            self.tags.insert(tag.0, start);
        }
    }

    /// Learns how the window with this tag ended. Returns its object-seconds, if it was in flight.
    pub(crate) fn settle(&mut self, tag: DeliveryTag, state: WindowState) -> Option<i64> {
        let start = self.tags.remove(&tag.0)?;
        let window = self.by_start.get_mut(&start)?;
        if window.state != WindowState::InFlight(tag) {
            return None;
        }
        window.state = state;
        Some(window.seconds)
    }

    /// Moves the watermark over the windows that were delivered without a gap.
    pub(crate) fn advance(&mut self) {
        while let Some(first) = self.by_start.first_entry() {
            if first.get().state != WindowState::Delivered {
                break;
            }
            self.watermark = first.remove().window.end;
        }
    }

    /// Gives up the windows that end at or before `until` and are in a state that is `lost`. Returns them.
    pub(crate) fn give_up(
        &mut self,
        until: UnixSeconds,
        lost: impl Fn(WindowState) -> bool,
    ) -> Vec<HandedOut> {
        let mut given_up = Vec::new();
        for handed_out in self.by_start.values_mut() {
            if handed_out.window.end <= until && lost(handed_out.state) {
                handed_out.state = WindowState::Delivered;
                given_up.push(*handed_out);
            }
        }
        given_up
    }

    /// Moves on to `until`, regardless of the state of earlier windows. Returns the object-seconds that were handed
    /// out and not settled.
    pub(crate) fn pass(&mut self, until: UnixSeconds) -> i64 {
        self.watermark = until;
        self.emitted = self.emitted.max(until);
        let passed = self.by_start.values().filter(|it| it.window.end <= until);
        let seconds = unsettled_seconds(passed);
        self.by_start.retain(|_, it| it.window.end > until);
        seconds
    }
}

/// Object-seconds of windows that are in flight or failed.
pub(crate) fn unsettled_seconds<'a>(windows: impl IntoIterator<Item = &'a HandedOut>) -> i64 {
    windows
        .into_iter()
        .filter(|it| it.state != WindowState::Delivered)
        .map(|it| it.seconds)
        .fold(0, i64::saturating_add)
}
