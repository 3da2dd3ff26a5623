//! Windows that were handed out.

use serde::{Deserialize, Serialize};

use crate::{
    interval::Window,
    types::{Accounting, DeliveryTag},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WindowState {
    InFlight(DeliveryTag),
    Failed,
    /// Or given up: nothing more comes of it.
    Delivered,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct HandedOut {
    pub(crate) window: Window,
    pub(crate) state: WindowState,
    pub(crate) seconds: i64,
    /// How it is billed, whatever is configured when it comes again. Older states do not say.
    #[serde(default)]
    pub(crate) accounting: Option<Accounting>,
}
