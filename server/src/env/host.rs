//! Host: the address by which other machines reach this one, as far as its routes tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Addresses that nobody has (RFC 5737, RFC 3849): only the default route leads to them.
const FAR: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1))),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];

/// The address from which this machine speaks by its default route, of IPv4 if there is one; `None` without such a route. Nothing is sent.
pub fn default_address() -> Option<IpAddr> {
    FAR.iter().find_map(|(any, far)| {
        let socket = UdpSocket::bind((*any, 0)).ok()?;
        socket.connect((*far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
    })
}

#[cfg(test)]
mod tests {
    /// Whatever the machine's routes are, what is found is an address to be reached by.
    #[test]
    fn an_address_or_none() {
        assert!(super::default_address().is_none_or(|ip| !ip.is_loopback() && !ip.is_unspecified()));
    }
}
