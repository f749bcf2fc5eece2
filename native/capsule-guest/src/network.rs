//! The guest's network, by rtnetlink (rtnetlink(7)): loopback, and the one device that the machine may have.

use crate::api::GuestNetwork;
use displaydoc::Display;
use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use thiserror::Error;

const DEVICE: &str = "eth0";
const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const MAKE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

#[derive(Debug, Error, Display)]
pub enum NetworkError {
    /// "{0}" is no address
    Address(String),
    /// the machine has no network device
    NoDevice,
    /// {0} failed: {1}
    Step(&'static str, Errno),
}

/// Sets everything up; without a network only the loopback interface.
pub fn set_up(network: Option<&GuestNetwork>) -> Result<(), NetworkError> {
    let netlink = Netlink::open()?;
    netlink.link_up("lo", 0)?;
    let Some(network) = network else { return Ok(()) };
    // The capsule settles that nobody else has the address: no second of waiting for a duplicate. And it says the routes:
    // a neighbour who says that he is a router is not believed.
    for setting in ["accept_dad", "accept_ra"] {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/{setting}"), "0");
    }
    netlink.link_up(DEVICE, network.mtu)?;
    for (address, gateway) in [(&network.ipv4, &network.gateway4), (&network.ipv6, &network.gateway6)] {
        if address.is_empty() {
            continue;
        }
        let (bytes, bits) = with_prefix(address)?;
        netlink.add_address(&bytes, bits)?;
        if !gateway.is_empty() {
            netlink.add_default_route(&octets(gateway)?)?;
        }
    }
    Ok(())
}

fn with_prefix(text: &str) -> Result<(Vec<u8>, u8), NetworkError> {
    let bad = || NetworkError::Address(text.into());
    let (address, bits) = text.split_once('/').ok_or_else(bad)?;
    Ok((octets(address)?, bits.parse().map_err(|_| bad())?))
}

fn octets(text: &str) -> Result<Vec<u8>, NetworkError> {
    let four = text.parse::<Ipv4Addr>().map(|address| address.octets().to_vec());
    let six = || text.parse::<Ipv6Addr>().map(|address| address.octets().to_vec());
    four.or_else(|_| six()).map_err(|_| NetworkError::Address(text.into()))
}

fn family(address: &[u8]) -> u8 {
    let family = if address.len() == 4 {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    u8::try_from(family).unwrap_or_default()
}

fn index(device: &str) -> Result<u32, NetworkError> {
    if_nametoindex(device).map_err(|_| NetworkError::NoDevice)
}

struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self, NetworkError> {
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map(Self)
        .map_err(|errno| NetworkError::Step("opening netlink", errno))
    }

    /// `struct ifinfomsg`; an MTU of 0 stays as it is.
    fn link_up(&self, device: &str, mtu: u32) -> Result<(), NetworkError> {
        let up = u32::try_from(libc::IFF_UP).unwrap_or_default();
        let mut body = vec![0; 4];
        body.extend(index(device)?.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        body.extend(up.to_ne_bytes());
        if mtu > 0 {
            attribute(&mut body, libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.ask("bringing the network device up", libc::RTM_NEWLINK, 0, &body)
    }

    /// `struct ifaddrmsg`.
    fn add_address(&self, address: &[u8], bits: u8) -> Result<(), NetworkError> {
        let no_dad = u8::try_from(libc::IFA_F_NODAD).unwrap_or_default();
        let mut body = vec![family(address), bits, if address.len() == 16 { no_dad } else { 0 }, 0];
        body.extend(index(DEVICE)?.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, address);
        attribute(&mut body, libc::IFA_ADDRESS, address);
        self.ask("setting the address", libc::RTM_NEWADDR, MAKE, &body)
    }

    /// `struct rtmsg`.
    fn add_default_route(&self, gateway: &[u8]) -> Result<(), NetworkError> {
        let (table, protocol, unicast) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
        let mut body = vec![
            family(gateway),
            0,
            0,
            0,
            table,
            protocol,
            libc::RT_SCOPE_UNIVERSE,
            unicast,
            0,
            0,
            0,
            0,
        ];
        attribute(&mut body, libc::RTA_GATEWAY, gateway);
        attribute(&mut body, libc::RTA_OIF, &index(DEVICE)?.to_ne_bytes());
        self.ask("setting the default route", libc::RTM_NEWROUTE, MAKE, &body)
    }

    fn ask(&self, what: &'static str, kind: u16, flags: u16, body: &[u8]) -> Result<(), NetworkError> {
        let fault = |errno| NetworkError::Step(what, errno);
        let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
        let mut message = Vec::new();
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((ACK | flags).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(fault)?;
        let mut reply = [0; 4096];
        let count = recv(self.0.as_raw_fd(), &mut reply, MsgFlags::empty()).map_err(fault)?;
        // An answer is an nlmsgerr: the negated error number, 0 for done.
        let number = reply.get(HEADER..HEADER + 4).filter(|_| count >= HEADER + 4);
        match number.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(negated) => Err(fault(Errno::from_raw(-negated))),
            None => Err(fault(Errno::EBADMSG)),
        }
    }
}

/// `struct rtattr`, aligned to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or_default();
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_prefix() {
        assert_eq!(with_prefix("10.64.0.7/20").ok(), Some((vec![10, 64, 0, 7], 20)));
        assert!(with_prefix("fd00::7/64").is_ok_and(|(bytes, bits)| bytes.len() == 16 && bits == 64));
        assert!(with_prefix("10.64.0.7").is_err() && with_prefix("x/8").is_err());
    }

    #[test]
    fn attributes_are_aligned() {
        let mut body = Vec::new();
        attribute(&mut body, 1, &[9]);
        assert_eq!(body.len(), 8);
    }
}
