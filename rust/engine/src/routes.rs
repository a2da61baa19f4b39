//! What transparent listeners serve: the pools of an address that clients dialled, by the class of the client.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// How clients talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl FromStr for Transport {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("protocol must be tcp or udp, not {name:?}")),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Who a client is, as capture saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientClass {
    /// A Pod of the cluster.
    Pod,
    /// A process of this node.
    Node,
    /// Anybody else.
    Ext,
}

/// The number of classes.
const CLASSES: usize = 3;

impl FromStr for ClientClass {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "pod" => Ok(Self::Pod),
            "node" => Ok(Self::Node),
            "ext" => Ok(Self::Ext),
            _ => Err(format!("client class must be pod, node or ext, not {name:?}")),
        }
    }
}

/// What clients dial. The unspecified address stands for every address of its family that has no route of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// How.
    pub transport: Transport,
    /// Where; never a v4-mapped address.
    pub ip: IpAddr,
    /// Not 0.
    pub port: u16,
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, SocketAddr::new(self.ip, self.port))
    }
}

/// Where the clients of one class go, as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// The pool's name; it need not exist yet.
    pub pool: String,
    /// The backend sees the client's address.
    pub keep_source: bool,
}

/// A route as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// What it is for.
    pub key: RouteKey,
    /// By class, in the order of [`ClientClass`]; None: such clients are not served.
    pub targets: [Option<TargetSpec>; CLASSES],
}

/// Where the clients of one class go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Of the pool.
    pub(crate) slot: u32,
    pub(crate) keep_source: bool,
}

/// By class.
pub(crate) type Targets = [Option<Target>; CLASSES];

/// All routes of one generation. The values are plain, so that a copy with a few changes is cheap.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routes(HashMap<RouteKey, Targets>);

impl Routes {
    /// The target of the exact route, or else of that for all addresses.
    pub(crate) fn find(&self, transport: Transport, destination: SocketAddr, class: ClientClass) -> Option<Target> {
        let (ip, port) = (destination.ip().to_canonical(), destination.port());
        let any = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let exact = self.0.get(&RouteKey { transport, ip, port });
        exact.or_else(|| self.0.get(&RouteKey { transport, ip: any, port }))?[class as usize]
    }

    /// Whether clients of any class are served at `destination`.
    pub(crate) fn serves(&self, transport: Transport, destination: SocketAddr) -> bool {
        [ClientClass::Pod, ClientClass::Node, ClientClass::Ext]
            .into_iter()
            .any(|class| self.find(transport, destination, class).is_some())
    }

    /// The targets of exactly this route.
    pub(crate) fn get(&self, key: &RouteKey) -> Option<Targets> {
        self.0.get(key).copied()
    }

    /// Sets a route and returns what it was before.
    pub(crate) fn insert(&mut self, key: RouteKey, targets: Targets) -> Option<Targets> {
        self.0.insert(key, targets)
    }

    pub(crate) fn remove(&mut self, key: &RouteKey) -> Option<Targets> {
        self.0.remove(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(transport: Transport, ip: &str, port: u16) -> RouteKey {
        RouteKey { transport, ip: ip.parse().unwrap(), port }
    }

    fn to(slot: u32) -> Option<Target> {
        Some(Target { slot, keep_source: false })
    }

    /// A client of a ClusterIP would reach the NodePort of another Service, or one family's NodePort the other's.
    #[test]
    fn the_exact_route_comes_before_the_one_for_all_addresses() {
        use ClientClass::{Ext, Node, Pod};
        let mut routes = Routes::default();
        routes.insert(key(Transport::Tcp, "10.0.0.1", 80), [to(1), None, to(2)]);
        routes.insert(key(Transport::Tcp, "0.0.0.0", 80), [to(3); 3]);
        routes.insert(key(Transport::Tcp, "::", 80), [to(4); 3]);
        routes.insert(key(Transport::Udp, "10.0.0.1", 80), [to(5); 3]);
        let find = |transport, address: &str, class| {
            routes.find(transport, address.parse().unwrap(), class).map(|target| target.slot)
        };
        assert_eq!(find(Transport::Tcp, "10.0.0.1:80", Pod), Some(1));
        assert_eq!(find(Transport::Tcp, "10.0.0.1:80", Node), None, "a class without target is not served");
        assert_eq!(find(Transport::Tcp, "10.0.0.1:80", Ext), Some(2));
        assert_eq!(find(Transport::Tcp, "[::ffff:10.0.0.1]:80", Ext), Some(2));
        assert_eq!(find(Transport::Tcp, "10.0.0.2:80", Pod), Some(3));
        assert_eq!(find(Transport::Tcp, "[::ffff:10.0.0.2]:80", Pod), Some(3));
        assert_eq!(find(Transport::Tcp, "[fd00::1]:80", Pod), Some(4));
        assert_eq!(find(Transport::Tcp, "10.0.0.1:81", Pod), None);
        assert_eq!(find(Transport::Udp, "10.0.0.1:80", Pod), Some(5));
        assert_eq!(find(Transport::Udp, "10.0.0.2:80", Pod), None);
    }
}
