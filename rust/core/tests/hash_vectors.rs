//! Golden values. If one changes, clients move to other backends when they reach another node or when a node is upgraded:
//! never edit a value, add a new hash beside the old one instead.

use spliceway_core::hash::{address_hash, fastrange, flow_key, mix, name_hash};
use spliceway_core::maglev::{Member, Table};
use spliceway_core::rng::Rng;

fn addresses() -> [(&'static str, u64); 7] {
    [
        ("127.0.0.1:80", 0),
        ("10.96.0.1:443", 0),
        ("255.255.255.255:65535", 0),
        ("[::1]:80", 0),
        ("[2001:db8::1]:443", 0),
        ("[fe80::1%7]:443", 0),
        ("[::ffff:127.0.0.1]:80", 0),
    ]
}

#[test]
fn address_hashes_stay() {
    for (address, expected) in addresses() {
        let hash = address.parse().map(address_hash);
        assert_eq!(hash, Ok(expected), "{address}: {hash:#x?}");
    }
}

#[test]
fn a_mapped_address_is_its_ipv4_address() {
    let [mapped, plain] = ["[::ffff:10.1.2.3]:8080", "10.1.2.3:8080"].map(|a| a.parse().map(address_hash));
    assert_eq!(mapped, plain);
}

#[test]
fn scope_does_not_count_because_it_differs_between_nodes() {
    let [seven, eight] = ["[fe80::1%7]:443", "[fe80::1%8]:443"].map(|a| a.parse().map(address_hash));
    assert_eq!(seven, eight);
}

#[test]
fn name_hashes_stay() {
    for (name, expected) in [("", 0), ("a", 0), ("default/shop:http", 0), ("default/shop:https", 0), ("käse/laden:", 0)] {
        let hash = name_hash(name);
        assert_eq!(hash, expected, "{name}: {hash:#x}");
    }
}

#[test]
fn names_that_differ_in_trailing_zeros_differ() {
    assert_ne!(name_hash("a"), name_hash("a\0"));
    assert_ne!(name_hash(""), name_hash("\0"));
}

#[test]
fn derived_keys_stay() -> Result<(), std::net::AddrParseError> {
    assert_eq!(mix(0, 0), 0);
    assert_eq!(mix(1, 2), 0);
    assert_eq!(flow_key("192.0.2.7:51234".parse()?, name_hash("default/shop:http")), 0);
    assert_eq!((fastrange(0, 1021), fastrange(u64::MAX, 1021), fastrange(1 << 63, 1021)), (0, 1020, 510));
    Ok(())
}

#[test]
fn the_generator_stays() {
    let mut rng = Rng::new(42);
    assert_eq!([rng.next_u64(), rng.next_u64()], [0, 0]);
    assert_eq!(std::array::from_fn::<u32, 8, _>(|_| rng.below(100)), [0; 8]);
    assert_eq!(rng.below(0), 0);
}

#[test]
fn a_table_stays() {
    let members = |weights: &[u16]| -> Vec<Member> {
        (1..).zip(weights).map(|(hash, &weight)| Member { hash: hash << 32, weight }).collect()
    };
    let equal = Table::build(&members(&[1; 5]));
    assert_eq!(equal.size(), 509);
    assert_eq!(equal.slots().take(24).collect::<Vec<_>>(), [0; 24]);
    let digest = |table: &Table| table.slots().fold(0, |digest, index| mix(digest, index as u64));
    assert_eq!(digest(&equal), 0);
    assert_eq!(digest(&Table::build(&members(&[1, 2, 3, 1000]))), 0);
    assert_eq!(digest(&Table::build(&members(&[7; 1000]))), 0);
}
