//! Corner cases of pods and rights on a real API server.
