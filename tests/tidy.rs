//! The arrows of ARCHITECTURE.md.
