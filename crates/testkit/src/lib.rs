//! Test support: what surrounds the program in a test, and the audit of its bill. A test starts
//! with a [`Scene`](scene::Scene), which sets all of it up.
//!
//! | Part | What it is |
//! | --- | --- |
//! | [`scene`] | the one way to set up an end-to-end test, and to end it with the audit |
//! | [`ingest`] | an ingest API that validates, records, de-duplicates and misbehaves on request |
//! | [`audit`] | checks that the events of each pod cover its true life exactly |
//! | [`control_plane`] | a real etcd and kube-apiserver with TLS, tokens and RBAC |
//! | [`disk`] | a small disk that can be full |
//! | [`kwok`] | a third-party simulation of a kubelet, for many pods |
//! | [`lagging`] | an HTTP proxy in front of the API server that delays watch events |
//! | [`meters`] | an API for meters in both forms, which checks definitions as the real one does |
//! | [`pods`] | pods whose status a test writes itself, for exact corner cases |
//! | [`proxy`] | a TCP proxy in front of the API server, whose connections can stop forwarding |
//! | [`reservation`] | what a pod reserves, computed a second time, and random pods |
//! | [`tls`] | TLS in front of the ingest API, with certificates that the test chooses |
//! | [`truth`] | when each pod ran, recorded from a separate watch |
//! | [`preload`] | failures of disk, clock and name resolution inside the program |
//! | [`process`] | the real binary: start it, read its endpoints and log, signal it, end it |
//!
//! The released program contains nothing of this. Dropping a handle ends what it started, even when a
//! test panics.

#![expect(
    clippy::disallowed_methods,
    reason = "what surrounds a test is not the program"
)]

pub mod audit;
pub mod child;
pub mod control_plane;
pub mod disk;
pub mod ingest;
pub mod kwok;
pub mod lagging;
pub mod meters;
pub mod pods;
pub mod ports;
pub mod preload;
pub mod process;
pub mod proxy;
pub mod reservation;
pub mod scene;
pub mod tls;
pub mod truth;
pub mod watchdog;

/// Installs the TLS provider that the Kubernetes client and the HTTP client need. A second call
/// has no effect.
fn install_crypto() {
    // An error only means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
