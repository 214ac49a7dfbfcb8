//! Networks and secrets of tools.

use super::*;

fn networks(config: &Config) -> Vec<String> {
    config.allow_networks.iter().map(ToString::to_string).collect()
}

#[test]
fn networks_come_from_the_environment_or_the_file() {
    check(
        ("RUNLEDGER_ALLOW_NETWORKS", "10.0.0.5/8, fd00::/8,192.168.1.7"),
        "allow_networks = [\"127.0.0.1\"]",
        networks,
        vec!["10.0.0.0/8".into(), "fd00::/8".into(), "192.168.1.7/32".into()],
        vec!["127.0.0.1/32".into()],
    );
    let none = env(&[("RUNLEDGER_ALLOW_NETWORKS", "none")]).config();
    assert_eq!(networks(&none), Vec::<String>::new());
}

#[test]
fn this_machine_is_open_only_where_nobody_else_can_connect_and_no_key_is_asked_for() {
    let loopback = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    assert_eq!(networks(&env(&[("RUNLEDGER_LISTEN", "[::1]:80")]).config()), loopback);
    let with_key = env(&[("RUNLEDGER_API_KEYS", "key")]).config();
    assert_eq!(networks(&with_key), Vec::<String>::new());
    let open = Given {
        flags: Flags { insecure_no_auth: true, ..Flags::default() },
        env: &[("RUNLEDGER_LISTEN", "0.0.0.0:80")],
        file: None,
    };
    assert_eq!(networks(&open.config()), Vec::<String>::new());
}

#[test]
fn a_network_that_is_none_is_told() {
    let told = mistake(&env(&[("RUNLEDGER_ALLOW_NETWORKS", "10.0.0.0/8,intranet")]));
    assert!(told.starts_with("RUNLEDGER_ALLOW_NETWORKS: \"intranet\" is no network"), "{told}");
}

const SHOP: &str =
    "[secrets.SHOP_KEY]\nvalue_env = \"SHOP\"\nhosts = [\"Shop.example\", \"[::1]\"]";

#[test]
fn a_secret_has_a_value_and_hosts() {
    let given = Given { env: &[("SHOP", " canary-1 ")], file: Some(SHOP), ..Given::default() };
    let config = given.config();
    let expected = ToolSecret {
        name: "SHOP_KEY".to_owned(),
        value: Secret::new("canary-1"),
        hosts: vec!["shop.example".to_owned(), "[::1]".to_owned()],
    };
    assert_eq!(config.secrets, [expected]);
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn every_mistake_of_a_secret_is_told_and_its_value_never() {
    let with = |file: &str, value: &str| {
        let env = [("SHOP", value)];
        let given = Given { env: &env, file: Some(file), ..Given::default() };
        given.mistakes().join("\n")
    };
    let told = with(SHOP, "canary");
    assert!(told.starts_with("SHOP: holds what can't be a header's secret"), "{told}");
    assert!(!told.contains("canary"), "{told}");
    assert!(with(SHOP, "").contains("the variable \"SHOP\" is not set"));
    for host in ["https://shop.example", "shop.example:443", "shop.example/x", "a b", "user@h"] {
        let told = with(&SHOP.replace("Shop.example", host), "canary-1");
        assert!(told.contains(&format!("secrets.SHOP_KEY.hosts: {host:?} is no host")), "{told}");
    }
    assert!(with("[secrets.A]\nhosts = [\"h\"]", "").contains("secrets.A.value_env: is missing"));
    assert!(with("[secrets.A]\nvalue_env = \"SHOP\"", "").contains("secrets.A.hosts: is missing"));
    let empty = "[secrets.A]\nvalue_env = \"SHOP\"\nhosts = []";
    assert!(with(empty, "").contains("secrets.A.hosts: is missing"));
    let odd = "[secrets.\"a b\"]\nvalue_env = \"SHOP\"\nhosts = [\"h\"]\nvalue = \"canary-2\"";
    let told = with(odd, "canary-1");
    assert!(told.contains("can't stand in a header's value"), "{told}");
    assert!(told.contains("known are value_env and hosts") && !told.contains("canary"), "{told}");
}
