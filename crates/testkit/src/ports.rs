//! Ports for servers that cannot take one from the kernel themselves.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The range starts above the well-known services and ends below the ephemeral ports of Linux, so
/// that an outgoing connection never takes a port between the choice and the use of it, nor while a
/// server is being restarted.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A loopback port that is free now and that this process has not returned recently.
///
/// # Errors
/// When none of the range is free.
pub fn free_port() -> std::io::Result<u16> {
    // Test binaries run at the same time, so each starts at another port.
    let offset = std::process::id().wrapping_mul(97);
    let mut last = std::io::Error::other("no free port");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + offset.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).unwrap_or(u16::MAX);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_differ_and_can_be_bound() {
        let (one, two) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(one, two);
        TcpListener::bind((Ipv4Addr::LOCALHOST, one)).unwrap();
    }
}
