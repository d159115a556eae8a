//! The client at the other end of a connection.

use std::net::SocketAddr;

/// The client's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Peer {
    /// Returns `true` if it is on this machine.
    pub(super) fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}
