//! Settings of the NATS connection, from arguments.

use std::path::Path;

use async_nats::{ConnectOptions, ServerAddr};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use secrecy::ExposeSecret;

use super::Invalid;
use crate::cli::queue::NatsArgs;
use crate::nats::subjects::Subjects;
use crate::nats::{Login, Settings};
use crate::source::stream::filter::Filter;

impl TryFrom<NatsArgs> for Settings {
    type Error = Invalid;

    fn try_from(args: NatsArgs) -> Result<Self, Invalid> {
        // Empty values count as unset.
        let common = std::env::var("NATS_URL").unwrap_or_default();
        let given = args.nats_url.iter().map(|url| url.expose_secret().trim()).filter(|url| !url.is_empty());
        let common = common.split(',').map(str::trim).filter(|url| !url.is_empty());
        let urls = [given.collect::<Vec<_>>(), common.collect(), vec!["nats://127.0.0.1:4222"]];
        let urls = urls.into_iter().find(|urls| !urls.is_empty()).unwrap_or_default();
        let servers = urls.iter().map(|url| url.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
        let servers = servers.map_err(Invalid::NatsUrl)?;
        let login = match (args.nats_creds, args.nats_user, args.nats_password, args.nats_token) {
            (Some(path), ..) => Login::Creds(path),
            (_, Some(user), Some(password), _) => Login::User(user, password),
            (.., Some(token)) => Login::Token(token),
            _ => servers.iter().find_map(login_in).unwrap_or(Login::None),
        };
        // Checked now, because a connection would fail only after the model is loaded, and try again and again.
        if let Login::Creds(path) = &login {
            let read = std::fs::read_to_string(path).and_then(|text| ConnectOptions::with_credentials(&text));
            usable("--nats-creds", path, read.map(drop))?;
        }
        if let Some(path) = &args.nats_ca {
            usable("--nats-ca", path, certificates(path))?;
        }
        Ok(Self { servers, login, ca: args.nats_ca })
    }
}

fn usable(flag: &'static str, path: &Path, read: std::io::Result<()>) -> Result<(), Invalid> {
    read.map_err(|source| Invalid::NatsFile { flag, path: path.to_owned(), source })
}

/// Checks that a file contains certificates in PEM, all of them well-formed.
fn certificates(path: &Path) -> std::io::Result<()> {
    let broken = |error: pem::Error| match error {
        pem::Error::Io(error) => error,
        other => std::io::Error::other(other.to_string()),
    };
    let found = CertificateDer::pem_file_iter(path).map_err(broken)?.collect::<Result<Vec<_>, _>>().map_err(broken)?;
    if found.is_empty() { Err(std::io::Error::other("there is no certificate in it")) } else { Ok(()) }
}

/// Login in a server's URL, which the client itself ignores: `user:password@`, or `token@`.
fn login_in(server: &ServerAddr) -> Option<Login> {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = plain(server.username()?);
    Some(match server.password() {
        Some(password) => Login::User(user, plain(password).into()),
        None => Login::Token(user.into()),
    })
}

/// Subjects of a prefix.
///
/// # Errors
/// If the prefix is invalid.
pub(crate) fn subjects(prefix: &str) -> Result<Subjects, Invalid> {
    prefix.parse().map_err(|source| Invalid::Prefix { prefix: prefix.to_owned(), source })
}

/// Returns a filter that is relative to the subject of jobs.
///
/// # Errors
/// If the filter begins with that subject itself.
pub(super) fn filter(filter: Option<Filter>, prefix: &str) -> Result<Option<Filter>, Invalid> {
    let Some(text) = filter.as_ref().map(ToString::to_string) else { return Ok(None) };
    match text.strip_prefix(&format!("{prefix}.jobs")) {
        Some("") => Err(Invalid::Filter(text, ">".to_owned())),
        Some(rest) if rest.starts_with('.') => Err(Invalid::Filter(text.clone(), rest[1..].to_owned())),
        _ => Ok(filter),
    }
}
