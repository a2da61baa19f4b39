//! Golden values. If one changes, clients move to other backends when they reach another node or when a node is upgraded:
//! never edit a value, add a new hash beside the old one instead.

use spliceway_core::hash::{address_hash, fastrange, flow_key, mix, name_hash};
use spliceway_core::maglev::{Member, Table};
use spliceway_core::rng::Rng;

fn addresses() -> [(&'static str, u64); 7] {
    [
        ("127.0.0.1:80", 0xae60_ab66_390f_cf37),
        ("10.96.0.1:443", 0x0d98_ab4e_ce8c_4542),
        ("255.255.255.255:65535", 0xe443_b287_d5e9_6e86),
        ("[::1]:80", 0x7777_30e1_909b_55f0),
        ("[2001:db8::1]:443", 0x39d8_29d3_50d5_15b4),
        ("[fe80::1%7]:443", 0x8d19_7066_887a_070c),
        ("[::ffff:127.0.0.1]:80", 0xae60_ab66_390f_cf37),
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
    for (name, expected) in [
        ("", 0x3600_fb97_5a14_c5e6),
        ("a", 0x2a3c_e36f_8c10_37f1),
        ("default/shop:http", 0x402e_f873_27b1_269f),
        ("default/shop:https", 0x5366_52d2_2faa_bf4b),
        ("käse/laden:", 0xa1e0_28d8_fcf4_5ead),
    ] {
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
    assert_eq!(mix(0, 0), 0x4821_8226_ff3c_d4bf);
    assert_eq!(mix(1, 2), 0xf282_6f98_653e_9e57);
    assert_eq!(flow_key("192.0.2.7:51234".parse()?, name_hash("default/shop:http")), 0x002b_e9d0_6dd7_b239);
    assert_eq!((fastrange(0, 1021), fastrange(u64::MAX, 1021), fastrange(1 << 63, 1021)), (0, 1020, 510));
    Ok(())
}

#[test]
fn the_generator_stays() {
    let mut rng = Rng::new(42);
    assert_eq!([rng.next_u64(), rng.next_u64()], [0xbdd7_3226_2feb_6e95, 0x28ef_e333_b266_f103]);
    assert_eq!(std::array::from_fn::<u32, 8, _>(|_| rng.below(100)), [27, 34, 3, 86, 21, 80, 33, 61]);
    assert_eq!(rng.below(0), 0);
}

#[test]
fn a_table_stays() {
    let members = |weights: &[u16]| -> Vec<Member> {
        (1..).zip(weights).map(|(hash, &weight)| Member { hash: hash << 32, weight }).collect()
    };
    let equal = Table::build(&members(&[1; 5]));
    assert_eq!(equal.size(), 509);
    assert_eq!(
        equal.slots().take(24).collect::<Vec<_>>(),
        [3, 3, 2, 4, 3, 4, 2, 0, 0, 1, 1, 2, 3, 0, 0, 2, 4, 3, 4, 2, 1, 4, 2, 2]
    );
    let digest = |table: &Table| table.slots().fold(0, |digest, index| mix(digest, index as u64));
    assert_eq!(digest(&equal), 0xa55c_f08e_6920_4aab);
    assert_eq!(digest(&Table::build(&members(&[1, 2, 3, 1000]))), 0xa724_d1df_9f38_73c9);
    assert_eq!(digest(&Table::build(&members(&[3; 100]))), 0xc629_1741_4cd4_845d);
    assert_eq!(digest(&Table::build(&members(&[7; 1000]))), 0x3a89_8e25_5a57_13ce);
}
