//! Test support: what stands around the program in a test, and the oracle that judges it.
//!
//! | Part | What it is |
//! | --- | --- |
//! | [`ingest`] | an ingest API that validates, records, de-duplicates and misbehaves on request |
//! | [`audit`] | do the events of each pod cover its true life exactly? |
//! | [`control_plane`] | a real etcd and kube-apiserver with TLS, tokens and RBAC |
//! | [`disk`] | a small disk that can be full |
//! | [`kwok`] | a kubelet that is not ours, for many pods |
//! | [`lagging`] | an HTTP proxy before the API server that holds back what watches say |
//! | [`pods`] | pods whose status a test writes itself, for exact corner cases |
//! | [`proxy`] | a TCP proxy before the API server, whose connections can go silent |
//! | [`tls`] | TLS in front of the ingest API, with certificates of the test's choice |
//! | [`truth`] | the lives of pods as the API server told them, written down beside the run |
//! | [`preload`] | faults of disk, clock and name resolution inside the program |
//! | [`process`] | the real binary: started, read, signalled, ended |
//!
//! Nothing here is shipped. Everything that is started is ended when its handle is dropped, also
//! when a test panics.

#![expect(
    clippy::disallowed_methods,
    reason = "what stands around a test is not the program"
)]

pub mod audit;
pub mod child;
pub mod control_plane;
pub mod disk;
pub mod ingest;
pub mod kwok;
pub mod lagging;
pub mod pods;
pub mod ports;
pub mod preload;
pub mod process;
pub mod proxy;
pub mod tls;
pub mod truth;

/// Makes sure that there is a TLS provider, which both the Kubernetes client and the HTTP client
/// need. A second call changes nothing.
fn install_crypto() {
    // An error only says that a provider is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
