//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What billing needs: the connections to the API server and to the sink, the state file, the
/// runtime's own.
const BILLING: u64 = 128;

/// Raises the limit to what the system allows, and returns it. The usual 1,024 is a default for old
/// programs that call `select`.
pub(crate) fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    let limit = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        // Some systems refuse `unlimited`; what there is may well be enough.
        Err(_) => current,
    };
    limit.unwrap_or(u64::MAX)
}

/// Warns when the limit is so low that billing could run into it.
pub(crate) fn warn_if_few(limit: u64) {
    if limit < BILLING {
        warn!(
            limit,
            "this process may open few files; billing can need {BILLING}: raise the limit (`ulimit -n`)"
        );
    }
}

/// How many connections pages may hold, of at most `most`: a part of the limit, so that descriptors
/// are never what billing lacks.
pub(crate) fn for_pages(limit: u64, most: usize) -> usize {
    let part = usize::try_from(limit / 4).unwrap_or(usize::MAX);
    part.clamp(2, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_get_a_part_of_what_there_is() {
        assert_eq!(for_pages(u64::MAX, 64), 64);
        assert_eq!(for_pages(1024, 64), 64);
        assert_eq!(for_pages(128, 64), 32);
        assert_eq!(for_pages(0, 64), 2);
    }
}
