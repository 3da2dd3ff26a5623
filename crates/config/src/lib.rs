//! Reads Benthos-style YAML into component plans and reports every fault with its place
