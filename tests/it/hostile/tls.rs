//! TLS to NATS, which ends in the worker's relay.

use std::process::Command;

use crate::support::nats::NatsServer;
use crate::support::worker::tagmill;

#[test]
fn a_server_with_tls_is_used_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let [key, certificate] = ["key.pem", "certificate.pem"].map(|name| folder.path().join(name).display().to_string());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=nats",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let users = "authorization { users: [{ user: worker, password: secret }] }";
    let nats =
        NatsServer::start_configured(&format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}\n{users}"));
    let init = |scheme: &str, login: &str, more: &[&str]| {
        let url = format!("{scheme}://{login}127.0.0.1:{}", nats.port);
        let output = tagmill(&[&["init", "--nats-url", &url], more].concat()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let trusted = ["--nats-ca", certificate.as_str()];
    for scheme in ["nats", "tls"] {
        let (code, log) = init(scheme, "worker:secret@", &trusted);
        assert_eq!(code, Some(0), "{log}");
    }
    let (code, log) = init("nats", "worker:secret@", &[]);
    assert!(code == Some(1) && log.contains("certificate"), "{log}");
    let (code, log) = init("nats", "worker:wrong@", &trusted);
    assert!(code == Some(1) && log.contains("refuses this login"), "{log}");
    assert!(!log.contains("wrong"), "{log}");
}
