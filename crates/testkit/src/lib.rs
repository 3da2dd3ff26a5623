//! Test support: a recording ingest API, the audit, a real control plane
