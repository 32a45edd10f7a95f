use super::*;

fn told(config: &PasstConfig) -> String {
    let words: Vec<_> = arguments(config).into_iter().map(|word| word.into_string().unwrap()).collect();
    words.join(" ")
}

#[test]
fn passt_is_told_what_the_configuration_says() {
    assert_eq!(
        told(&PasstConfig::default()),
        "--quiet --mtu 65520 --tcp-ports none --udp-ports none --no-map-gw"
    );
    let config = PasstConfig {
        forwards: ["8080:80", "127.0.0.1:2222:22", "[::1]:53/udp"].map(|f| f.parse().unwrap()).into(),
        mtu: Some(1500),
        addresses: vec!["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()],
        prefix: Some(24),
        gateways: vec!["10.0.2.2".parse().unwrap()],
        dns: vec!["10.0.2.3".parse().unwrap()],
        interface: Some("eth1".into()),
        host_loopback: true,
        log_file: Some("/tmp/log".into()),
        ..PasstConfig::default()
    };
    assert_eq!(
        told(&config),
        "--quiet --mtu 1500 --address 10.0.2.15 --address fd00::15 --gateway 10.0.2.2 --dns 10.0.2.3 --netmask 24 \
         --interface eth1 --log-file /tmp/log --tcp-ports 8080:80 --tcp-ports 127.0.0.1/2222:22 --udp-ports ::1/53:53"
    );
}

#[test]
fn what_means_nothing_is_left_out_of_what_it_says() {
    let text =
        b"Failed to send 47 bytes to syslog\nDon't run as root. Changing to nobody...\n\n Couldn't \xff \n";
    assert_eq!(messages(text), ["Couldn't \u{fffd}"]);
}
