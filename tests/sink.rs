//! Delivery under fire, without a cluster.
