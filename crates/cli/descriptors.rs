//! The limit of open files and sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// How many descriptors billing needs: connections to the API server and to the sink, the state file,
/// and those of the runtime.
const BILLING: u64 = 128;

/// Raises the soft limit to the hard limit, and returns the limit in force. The usual soft limit of
/// 1,024 exists for old programs that call `select`.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        // Some systems refuse `unlimited`; the current limit may still be enough.
        Err(_) => current,
    };
    limit.unwrap_or(u64::MAX)
}

/// Warns when billing could reach the limit.
pub(crate) fn warn_if_few(limit: u64) {
    if limit < BILLING {
        warn!(
            limit,
            "the limit of open files is low; billing can need {BILLING} descriptors: raise it (`ulimit -n`)"
        );
    }
}

/// How many connections an HTTP server may hold: a quarter of the limit and at most `most`, so that
/// enough descriptors remain for billing.
pub(crate) fn for_server(limit: u64, most: usize) -> usize {
    let part = usize::try_from(limit / 4).unwrap_or(usize::MAX);
    part.clamp(2, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_server_gets_a_quarter_of_the_descriptors() {
        assert_eq!(for_server(u64::MAX, 64), 64);
        assert_eq!(for_server(1024, 64), 64);
        assert_eq!(for_server(128, 64), 32);
        assert_eq!(for_server(0, 64), 2);
    }
}
