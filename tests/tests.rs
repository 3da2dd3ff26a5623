//! End-to-end tests: the real binary between a real control plane and a recording ingest API.

mod cli;
mod corners;
mod main_job;
mod sink;
mod support;
mod tidy;
