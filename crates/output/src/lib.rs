//! Outputs: openmeter, http_client, stdout, drop, switch, broker, reject_errored
