//! Which user of this machine is at the other end of a connection.

use super::procfs::{self, TcpSocket};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

/// The type of a request for sockets of a family, as in sock_diag(7), and of its response.
const BY_FAMILY: u16 = 20;
/// The flag of a request, as in netlink(7).
const REQUEST: u16 = 1;
const TCP: u8 = 6;
/// States of TCP in which somebody has the socket: it is connected, or has sent all that it will.
const IN_USE: [u8; 3] = [1, 4, 5];
/// Where things are in a response: the state, the two ports, user and inode.
const STATE: usize = 17;
const PORTS: usize = 20;
const USER: usize = 80;
const INODE: usize = 84;
const END: usize = 88;

/// The user who has connected to a unix socket.
pub fn unix_user(stream: &OwnedFd) -> Option<u32> {
    let peer = socket::getsockopt(stream, sockopt::PeerCredentials).ok()?;
    Some(peer.uid())
}

/// The user who has the other end of a TCP connection. None: nobody on this machine, or nobody any more.
pub fn tcp_user(stream: &OwnedFd) -> Option<u32> {
    let (ours, theirs) = addresses(stream)?;
    let found = match ask(theirs, ours) {
        Some(found) => found,
        // The kernel answers, as it knows our end. Where it does not, its list takes much longer to read.
        None if addresses(stream).is_none() || ask(ours, theirs).is_some() => return None,
        None => procfs::tcp_socket(theirs, ours)?,
    };
    // One that has been closed has no inode, and says that it is root's.
    let in_use = IN_USE.contains(&found.state) && found.inode != 0;
    // If we are still connected, it is the socket that has connected to us, and not a later one at the same address.
    (in_use && addresses(stream).is_some()).then_some(found.user)
}

/// Our address, and that of the peer, of a TCP socket that is connected.
fn addresses(stream: &OwnedFd) -> Option<(SocketAddr, SocketAddr)> {
    let plain = |name: SockaddrStorage| match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::V4((*v4).into())),
        (_, Some(v6)) => Some(SocketAddr::new(v6.ip().to_canonical(), v6.port())),
        _ => None,
    };
    let ours = socket::getsockname(stream.as_raw_fd()).ok()?;
    let theirs = socket::getpeername(stream.as_raw_fd()).ok()?;
    Some((plain(ours)?, plain(theirs)?))
}

/// Asks the kernel for the TCP socket with this address that is connected to that one.
fn ask(local: SocketAddr, remote: SocketAddr) -> Option<TcpSocket> {
    let kernel = socket::socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    );
    let kernel = kernel.ok()?;
    let request = request(local, remote);
    socket::send(kernel.as_raw_fd(), &request, MsgFlags::empty()).ok()?;
    let mut response = [0; 512];
    let length = socket::recv(kernel.as_raw_fd(), &mut response, MsgFlags::MSG_DONTWAIT);
    let response = response.get(..length.ok()?)?;
    let number = |at: usize| {
        Some(u32::from_ne_bytes(
            response.get(at..at + 4)?.try_into().ok()?,
        ))
    };
    let is_answer = response.len() >= END && response.get(4..6) == Some(&BY_FAMILY.to_ne_bytes());
    // Without such a connection, the kernel tells of a socket that listens at the address.
    let ports = [local.port().to_be_bytes(), remote.port().to_be_bytes()].concat();
    let is_meant = response.get(PORTS..PORTS + 4) == Some(&ports);
    (is_answer && is_meant).then_some(())?;
    Some(TcpSocket {
        state: *response.get(STATE)?,
        user: number(USER)?,
        inode: number(INODE)?,
    })
}

/// The request of `ask`.
fn request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = match local {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut bytes = Vec::with_capacity(72);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend([BY_FAMILY, REQUEST].map(u16::to_ne_bytes).concat());
    bytes.extend([0; 8]);
    bytes.extend([family as u8, TCP, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    bytes.extend([local.port(), remote.port()].map(u16::to_be_bytes).concat());
    for address in [local.ip(), remote.ip()] {
        let mut sixteen = [0; 16];
        match address {
            IpAddr::V4(v4) => sixteen[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => sixteen = v6.octets(),
        }
        bytes.extend(sixteen);
    }
    bytes.extend([0; 4]);
    bytes.extend([0xff; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_user_of_the_other_end_is_known() {
        let us = nix::unistd::geteuid().as_raw();
        for (at, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
            ("[::]:0", "::ffff:127.0.0.1"),
        ] {
            let listener = TcpListener::bind(at).unwrap();
            let port = listener.local_addr().unwrap().port();
            let to: IpAddr = to.parse().unwrap();
            let client = TcpStream::connect((to, port)).unwrap();
            let stream = OwnedFd::from(listener.accept().unwrap().0);
            assert_eq!(tcp_user(&stream), Some(us), "{at} {to}");
            let (ours, theirs) = addresses(&stream).unwrap();
            let found = ask(theirs, ours).unwrap();
            assert_eq!(procfs::tcp_socket(theirs, ours), Some(found), "{at} {to}");
            assert_eq!(ask(theirs, SocketAddr::new(ours.ip(), 1)), None);
            assert_eq!(procfs::tcp_socket(ours, ours), None);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(tcp_user(&stream), Some(us), "half closed: {at} {to}");
            drop(client);
            assert_eq!(tcp_user(&stream), None, "closed: {at} {to}");
            let from_procfs = procfs::tcp_socket(theirs, ours);
            assert!(
                from_procfs.is_none_or(|found| found.inode == 0),
                "{from_procfs:?}"
            );
        }
    }

    #[test]
    fn a_socket_that_listens_at_the_address_is_not_taken_for_the_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(ask(at, "127.0.0.1:1".parse().unwrap()), None);
        assert_eq!(procfs::tcp_socket(at, "127.0.0.1:1".parse().unwrap()), None);
    }
}
