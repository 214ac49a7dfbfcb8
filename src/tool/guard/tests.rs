//! The guard's verdicts, over a table of addresses as a URL may write them. Nothing is dialled.

use super::*;

fn url(host: &str) -> Url {
    Url::parse(&format!("http://{host}/x")).unwrap_or_else(|error| panic!("{host}: {error}"))
}

fn guard(allowed: &[&str]) -> Guard {
    let nets: Vec<IpNet> = allowed.iter().map(|net| net.parse().expect("a network")).collect();
    Guard::new(&nets)
}

/// Hosts as they stand in a URL, and what the guard says; none: it may be called.
const VERDICTS: [(&str, Option<&str>); 100] = [
    // This machine, in every form that a URL's parser takes for an address.
    ("127.0.0.1", Some("this machine")),
    ("127.0.0.1:8080", Some("this machine")),
    ("127.1", Some("this machine")),
    ("127.0.1", Some("this machine")),
    ("127.255.255.254", Some("this machine")),
    ("2130706433", Some("this machine")),
    ("0x7f000001", Some("this machine")),
    ("0x7f.0.0.1", Some("this machine")),
    ("0x7f.1", Some("this machine")),
    ("017700000001", Some("this machine")),
    ("0177.0.0.1", Some("this machine")),
    ("0177.0x0.0.01", Some("this machine")),
    ("127.0.0.1.", Some("this machine")),
    ("%31%32%37.0.0.1", Some("this machine")),
    ("①②⑦.0.0.1", Some("this machine")),
    ("127。0。0。1", Some("this machine")),
    ("[::1]", Some("this machine")),
    ("[0:0:0:0:0:0:0:1]", Some("this machine")),
    ("[0000::0001]:80", Some("this machine")),
    ("[::ffff:127.0.0.1]", Some("this machine")),
    ("[::ffff:7f00:1]", Some("this machine")),
    ("[0:0:0:0:0:ffff:7f00:0001]", Some("this machine")),
    ("[64:ff9b::127.0.0.1]", Some("this machine")),
    ("[64:ff9b::7f00:1]", Some("this machine")),
    ("[::127.0.0.1]", Some("reserved")),
    ("[::7f00:1]", Some("reserved")),
    ("[2002:7f00:1::]", Some("a 6to4 tunnel")),
    ("[2001:0:7f00:1::]", Some("a Teredo tunnel")),
    // Unspecified: most systems connect it to this machine.
    ("0.0.0.0", Some("this network")),
    ("0", Some("this network")),
    ("0.1.2.3", Some("this network")),
    ("[::]", Some("unspecified")),
    ("[::ffff:0.0.0.0]", Some("this network")),
    // Link-local, with the clouds' metadata.
    ("169.254.169.254", Some("a link-local network")),
    ("169.254.170.2", Some("a link-local network")),
    ("0xa9fea9fe", Some("a link-local network")),
    ("2852039166", Some("a link-local network")),
    ("0251.0376.0251.0376", Some("a link-local network")),
    ("[::ffff:169.254.169.254]", Some("a link-local network")),
    ("[::ffff:a9fe:a9fe]", Some("a link-local network")),
    ("[64:ff9b::a9fe:a9fe]", Some("a link-local network")),
    ("[2002:a9fe:a9fe::1]", Some("a 6to4 tunnel")),
    ("[fe80::1]", Some("a link-local network")),
    ("[febf::1]", Some("a link-local network")),
    ("[fd00:ec2::254]", Some("a private network")),
    ("100.100.100.200", Some("a carrier's network")),
    // Private networks.
    ("10.0.0.1", Some("a private network")),
    ("10.255.255.255", Some("a private network")),
    ("10.1", Some("a private network")),
    ("0xa000001", Some("a private network")),
    ("172.16.0.1", Some("a private network")),
    ("172.31.255.255", Some("a private network")),
    ("192.168.0.1", Some("a private network")),
    ("192.168.1", Some("a private network")),
    ("0xc0a80001", Some("a private network")),
    ("[::ffff:10.0.0.1]", Some("a private network")),
    ("[::ffff:192.168.1.1]", Some("a private network")),
    ("[64:ff9b::10.0.0.1]", Some("a private network")),
    ("[2002:a00:1::]", Some("a 6to4 tunnel")),
    ("[2002:c0a8:101::1]", Some("a 6to4 tunnel")),
    ("[64:ff9b:1::10.0.0.1]", Some("a NAT64 network")),
    ("[fc00::1]", Some("a private network")),
    ("[fdff:ffff::1]", Some("a private network")),
    ("[fec0::1]", Some("a private network")),
    ("100.64.0.1", Some("a carrier's network")),
    ("100.127.255.255", Some("a carrier's network")),
    // Multicast, broadcast, reserved.
    ("224.0.0.1", Some("multicast")),
    ("239.255.255.250", Some("multicast")),
    ("[ff02::1]", Some("multicast")),
    ("[ff0e::1]", Some("multicast")),
    ("255.255.255.255", Some("broadcast")),
    ("4294967295", Some("broadcast")),
    ("240.0.0.1", Some("reserved")),
    ("192.0.0.1", Some("reserved for protocols")),
    ("192.0.0.192", Some("reserved for protocols")),
    ("192.88.99.1", Some("a 6to4 relay")),
    ("[2001:10::1]", Some("reserved for protocols")),
    ("[2001:2::1]", Some("reserved for protocols")),
    ("[100::1]", Some("reserved")),
    ("[5f00::1]", Some("reserved")),
    ("[4000::1]", Some("reserved")),
    // Documentation and benchmarks.
    ("192.0.2.1", Some("reserved for documentation")),
    ("198.51.100.7", Some("reserved for documentation")),
    ("203.0.113.9", Some("reserved for documentation")),
    ("198.18.0.1", Some("reserved for benchmarks")),
    ("198.19.255.255", Some("reserved for benchmarks")),
    ("[2001:db8::1]", Some("reserved for documentation")),
    ("[3fff::1]", Some("reserved for documentation")),
    ("[::ffff:203.0.113.9]", Some("reserved for documentation")),
    // The public internet, also right beside what is closed.
    ("1.1.1.1", None),
    ("9.255.255.255", None),
    ("11.0.0.0", None),
    ("100.63.255.255", None),
    ("172.32.0.1", None),
    ("192.167.255.255", None),
    ("198.20.0.1", None),
    ("223.255.255.255", None),
    ("[2606:4700:4700::1111]", None),
    ("[2001:4860:4860::8888]", None),
    ("[::ffff:1.1.1.1]", None),
];

#[test]
fn every_address_has_its_verdict() {
    let guard = Guard::default();
    let mut right = 0;
    for (host, expected) in VERDICTS {
        let verdict = guard.check_literal(&url(host));
        assert_eq!(verdict.as_ref().err().map(|refusal| refusal.what), expected, "{host}");
        if let Err(refusal) = verdict {
            assert!(refusal.to_string().contains(SETTING), "{refusal}");
        }
        right += 1;
    }
    println!("row=23 faults_fired={} ops_ok={right} value=0", VERDICTS.len());
}

/// The control: with everything open, what the table calls closed is found to be open.
#[test]
fn without_the_guard_every_address_of_the_table_would_be_called() {
    let open = guard(&["0.0.0.0/0", "::/0"]);
    let called = VERDICTS.iter().filter(|(host, _)| open.check_literal(&url(host)).is_ok()).count();
    println!("row=23 control=true value={called}");
    assert_eq!(called, VERDICTS.len());
}

#[test]
fn a_name_in_a_url_is_left_to_the_resolver() {
    for name in ["localhost", "shop.example", "127.0.0.1.example", "0x7f.example"] {
        assert_eq!(Guard::default().check_literal(&url(name)), Ok(()), "{name}");
    }
}

#[test]
fn the_operator_opens_networks_and_only_those() {
    let open = guard(&["127.0.0.0/8", "::1/128", "10.1.0.0/16", "fd12:3456::/32"]);
    for host in [
        "127.0.0.1",
        "0x7f.1",
        "[::1]",
        "10.1.2.3",
        "[::ffff:10.1.2.3]",
        "[64:ff9b::10.1.2.3]",
        "[fd12:3456::7]",
        "1.1.1.1",
    ] {
        assert_eq!(open.check_literal(&url(host)), Ok(()), "{host}");
    }
    for host in [
        "0.0.0.0",
        "[::]",
        "10.2.0.1",
        "169.254.169.254",
        "192.168.0.1",
        "[fd12:3457::7]",
        "[::10.1.2.3]",
        "[2002:a01:203::]",
    ] {
        assert!(open.check_literal(&url(host)).is_err(), "{host}");
    }
}

#[test]
fn of_a_names_addresses_only_the_open_ones_are_dialled() {
    let at = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
    let guard = Guard::default();
    let mixed = vec![at("10.0.0.1"), at("1.1.1.1"), at("::1"), at("2606:4700::1")];
    assert_eq!(guard.filter("mixed", mixed), Ok(vec![at("1.1.1.1"), at("2606:4700::1")]));
    let closed = guard.filter("inside.example", vec![at("10.0.0.1"), at("::1")]);
    let words = closed.expect_err("none is open").to_string();
    assert!(words.contains("inside.example") && words.contains("a private network"), "{words}");
    assert!(!words.contains("10.0.0.1"), "the operator's addresses are not told: {words}");
    assert_eq!(guard.filter("nothing", Vec::new()), Ok(Vec::new()));
}

#[tokio::test]
async fn a_name_is_checked_with_what_it_resolves_to() {
    let resolve =
        |guard: Guard| async move { guard.resolve("localhost".parse().expect("a name")).await };
    let error = resolve(Guard::default()).await.err().expect("this machine is closed");
    let refusal = error.downcast_ref::<Refusal>().expect("it is the guard's own");
    assert_eq!(refusal.what, "this machine");
    let found = resolve(guard(&["127.0.0.0/8", "::1/128"])).await.expect("it is open");
    assert!(found.count() > 0);
}
