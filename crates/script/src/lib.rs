//! Rhai mappings: engine limits, the function library and run-time interpolation
