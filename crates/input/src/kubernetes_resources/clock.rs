//! The clock that billing uses.
//!
//! Windows are cut by the wall clock, which may be set while the program runs. The wall clock then
//! differs from the time that passed, and one of the two is wrong. The API server's clock, which each answer
//! carries, decides which. Until an answer arrives the time that passed counts: it is how long pods ran.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tracing::{info, warn};

/// A smaller step of the clock is an adjustment, not a new setting.
const STEP: TimeDelta = TimeDelta::seconds(2);
/// A larger difference between the clocks of two machines is logged.
const SKEW: TimeDelta = TimeDelta::seconds(30);

/// How many seconds the clocks of two machines may differ as long as the API server has not sent its time.
const CLOCKS_DIFFER: i64 = 60;
/// How many seconds they may differ once the API server has sent its time, in whole seconds.
const PRECISION: i64 = 2;

/// Wall time that does not jump, and the wall time of a monotonic moment. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Arc<Mutex<Steady>>);

#[derive(Debug, Default)]
struct Steady {
    /// The time at a monotonic moment.
    anchor: Option<(DateTime<Utc>, Instant)>,
    /// What the API server's clock showed last.
    server: Option<(DateTime<Utc>, Instant)>,
    /// When the clock was found to have been set, and by how much.
    set: Option<(Instant, TimeDelta)>,
    /// How far this clock was ahead of the API server's then. It may have been a second less, because the
    /// server sends whole seconds.
    ahead: TimeDelta,
    /// Whether the difference to the API server's clock was logged.
    skew_logged: bool,
}

impl Clock {
    fn steady(&self) -> MutexGuard<'_, Steady> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> DateTime<Utc> {
        self.steady().now(Utc::now(), Instant::now())
    }

    /// Unix seconds, rounded down.
    pub(super) fn seconds(&self) -> i64 {
        self.now().timestamp()
    }

    /// The present moment, by all clocks.
    pub(super) fn moment(&self) -> Moment {
        let at = Instant::now();
        let local = self.now();
        let ahead = (self.steady().ahead - TimeDelta::seconds(1)).max(TimeDelta::zero());
        Moment { at, local, ahead }
    }

    /// Returns the latest second that any clock of the cluster shows, as far as is known.
    pub(super) fn latest(&self) -> i64 {
        let server = self.steady().server;
        let here = self.seconds();
        match server {
            Some(server) => {
                let there = later(server, Instant::now()).timestamp();
                here.max(there).saturating_add(PRECISION)
            }
            None => here.saturating_add(CLOCKS_DIFFER),
        }
    }

    /// Returns how long it takes until the clock shows `at`.
    pub(super) fn until(&self, at: i64) -> std::time::Duration {
        let now = self.now();
        DateTime::from_timestamp(at, 0)
            .and_then(|at| (at - now).to_std().ok())
            .unwrap_or_default()
    }

    /// Takes the header `Date` of an answer: the API server's clock showed this time just now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub(super) fn server_time(&self, date: &str) {
        if let Ok(date) = DateTime::parse_from_rfc2822(date) {
            self.steady()
                .server_time(date.to_utc(), Utc::now(), Instant::now());
        }
    }
}

/// One moment by the monotonic clock, by this machine's and by the cluster's: what is computed from it needs
/// no clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    local: DateTime<Utc>,
    /// By how much this machine's clock is certainly ahead of the API server's.
    ahead: TimeDelta,
}

impl Moment {
    /// By the monotonic clock.
    pub(super) fn at(self) -> Instant {
        self.at
    }

    /// Unix seconds by this machine's clock, rounded down.
    pub(super) fn seconds(self) -> i64 {
        self.local.timestamp()
    }

    /// Unix seconds, rounded down, by the API server's clock where this machine's is certainly ahead of it:
    /// what happens in the cluster's future is not known.
    pub(super) fn cluster_seconds(self) -> i64 {
        self.cluster_seconds_at(self.at)
    }

    /// The same at an earlier moment.
    pub(super) fn cluster_seconds_at(self, earlier: Instant) -> i64 {
        let ago = self.at.saturating_duration_since(earlier);
        let ago = TimeDelta::from_std(ago).unwrap_or_default();
        (self.local - ago - self.ahead).timestamp()
    }
}

#[cfg(test)]
impl Moment {
    /// The moment `at`, at which all clocks show the Unix time `seconds`.
    pub(super) fn new(at: Instant, seconds: f64) -> Self {
        let local = DateTime::UNIX_EPOCH + TimeDelta::milliseconds((seconds * 1_000.0) as i64);
        Self {
            at,
            local,
            ahead: TimeDelta::zero(),
        }
    }
}

/// The time at `at` by a clock that showed `time` at `when`.
fn later((time, when): (DateTime<Utc>, Instant), at: Instant) -> DateTime<Utc> {
    let passed = at.saturating_duration_since(when);
    time + TimeDelta::from_std(passed).unwrap_or_default()
}

impl Steady {
    fn now(&mut self, wall: DateTime<Utc>, at: Instant) -> DateTime<Utc> {
        let Some(anchor) = self.anchor else {
            self.anchor = Some((wall, at));
            return wall;
        };
        let steady = later(anchor, at);
        let off = wall - steady;
        if off.abs() <= STEP {
            if self.set.take().is_some() {
                info!("the clock of this machine was set back to the correct time");
            }
            self.anchor = Some((wall, at));
            return wall;
        }
        let found = match self.set {
            Some((found, by)) if (off - by).abs() <= STEP => found,
            _ => {
                warn!(
                    seconds = off.num_seconds(),
                    "the clock of this machine was set; billing continues by the elapsed time \
                     unless the API server's clock agrees with the new time"
                );
                self.set = Some((at, off));
                at
            }
        };
        let server = self.server.filter(|(_, when)| *when > found);
        let server = server.map(|server| later(server, at));
        if server.is_some_and(|server| (wall - server).abs() < (steady - server).abs()) {
            warn!(
                seconds = off.num_seconds(),
                "the clock of this machine agrees with the API server's since it was set; billing \
                 continues by it"
            );
            self.set = None;
            self.anchor = Some((wall, at));
            return wall;
        }
        steady
    }

    fn server_time(&mut self, date: DateTime<Utc>, wall: DateTime<Utc>, at: Instant) {
        self.server = Some((date, at));
        let ahead = self.now(wall, at) - date;
        self.ahead = ahead;
        if ahead.abs() <= SKEW {
            self.skew_logged = false;
        } else if !std::mem::replace(&mut self.skew_logged, true) {
            warn!(
                seconds = ahead.num_seconds(),
                "the clock of this machine is ahead of the API server's, or behind if negative; \
                 billed times are off by as much; synchronise the clock"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: TimeDelta = TimeDelta::hours(1);

    fn wall(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(1_000_000 + seconds)
    }

    #[test]
    fn a_clock_that_is_adjusted_is_followed() {
        let (mut steady, start) = (Steady::default(), Instant::now());
        steady.now(wall(0), start);
        // A second gained in each of ten.
        for step in 1..100_u32 {
            let shows = wall(i64::from(step) * 11);
            let at = start + Duration::from_secs(10) * step;
            assert_eq!(steady.now(shows, at), shows);
        }
    }

    #[test]
    fn a_clock_that_is_set_wrong_is_not_followed() {
        for by in [HOUR, -HOUR] {
            let (mut steady, start) = (Steady::default(), Instant::now());
            steady.now(wall(0), start);
            let at = |seconds| start + Duration::from_secs(seconds);
            assert_eq!(steady.now(wall(5) + by, at(5)), wall(5));
            steady.server_time(wall(6), wall(6) + by, at(6));
            assert_eq!(steady.now(wall(7) + by, at(7)), wall(7));
            assert_eq!(steady.now(wall(8), at(8)), wall(8));
            assert!(steady.set.is_none());
        }
    }

    #[test]
    fn a_clock_that_is_ahead_of_the_cluster_uses_the_cluster_s_seconds() {
        let clock = Clock::default();
        let here = |of: &Clock| (of.seconds(), of.moment().cluster_seconds());
        let date = |seconds| (Utc::now() - TimeDelta::seconds(seconds)).to_rfc2822();
        let (now, cluster) = here(&clock);
        assert!((0..=1).contains(&(cluster - now)), "{now} {cluster}");
        clock.server_time(&date(10));
        let (now, cluster) = here(&clock);
        assert!((8..=10).contains(&(now - cluster)), "{now} {cluster}");
        for near in [0, -10] {
            clock.server_time(&date(near));
            let (now, cluster) = here(&clock);
            assert!((0..=1).contains(&(cluster - now)), "{now} {cluster}");
        }
    }

    #[test]
    fn the_latest_clock_is_the_api_servers_or_this_one() {
        let ahead = |offset: Option<i64>| {
            let clock = Clock::default();
            let dates = offset.map(|by| (Utc::now() + TimeDelta::seconds(by)).to_rfc2822());
            dates.iter().for_each(|date| clock.server_time(date));
            clock.latest() - clock.seconds()
        };
        assert_eq!(ahead(None), 60);
        assert_eq!(ahead(Some(-40)), 2);
        assert!((41..=43).contains(&ahead(Some(40))));
    }

    #[test]
    fn a_clock_that_is_corrected_is_followed_once_the_server_confirms_it() {
        for by in [HOUR, -HOUR] {
            let (mut steady, start) = (Steady::default(), Instant::now());
            let at = |seconds| start + Duration::from_secs(seconds);
            steady.server_time(wall(0), wall(0) + by, at(0));
            assert!(steady.skew_logged);
            // An earlier answer of the server proves nothing about the present.
            assert_eq!(steady.now(wall(5), at(5)), wall(5) + by);
            steady.server_time(wall(6), wall(6), at(6));
            assert_eq!(steady.now(wall(7), at(7)), wall(7));
            assert!(!steady.skew_logged);
        }
    }
}
