//! End-to-end tests: the real binary between a real control plane and a recording ingest API.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test that cannot continue panics; the code around the tests is part of them"
)]

mod attribution;
mod broker;
mod buffer;
mod chaos;
mod chart;
mod claims;
mod cli;
mod clusters;
mod contents;
mod corpora;
mod crashes;
mod devices;
mod exact_billing;
mod fates;
mod faults;
mod hostile;
mod kinds;
mod lifetimes;
mod lint;
mod load;
mod meters;
mod outages;
mod parts;
mod pod_lifecycle;
mod projection;
mod readme;
mod reliability;
mod replicas;
mod repo_checks;
mod reservations;
mod resizes;
mod retries;
mod rotation;
mod scope;
mod secrets;
mod sink;
mod support;
mod watch;
