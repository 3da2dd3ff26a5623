//! Inputs: schedule, kubernetes_resources, generate, stdin
