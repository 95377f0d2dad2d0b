//! The `tls:` section, and files of certificate authorities.

use std::path::PathBuf;

use super::raw::Node;
use crate::clock::Clock;
use crate::protocol::issuer::Issuer;
use crate::tls::{Authorities, Files, Part};

/// Two files that can be shown as they are now.
pub(super) fn files(node: &Node<'_>, issuer: Option<&Issuer>) -> Option<Files> {
    if !node.exists() || !node.only(&["cert", "key"]) {
        return None;
    }
    if issuer.is_some_and(|issuer| !issuer.is_secure()) {
        node.problem("needs an https public_url: that is what clients are told to use");
    }
    let (cert, key) = (node.get("cert"), node.get("key"));
    cert.required();
    key.required();
    let (cert_file, key_file) = (cert.text().map(PathBuf::from), key.text().map(PathBuf::from));
    let files = Files { cert: cert_file?, key: key_file? };
    // Certificates are for the machine's own time, whatever clock runs beside them.
    if let Err(fault) = files.load(Clock::system().now()) {
        match fault.part {
            Part::Certificate => cert.problem(fault),
            Part::Key => key.problem(fault),
        }
        return None;
    }
    Some(files)
}

/// A PEM file with at least one certificate, and nothing broken in it; no file is no further authority.
pub(super) fn authorities(node: &Node<'_>) -> Authorities {
    let read = |path: &str| {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        Authorities::parse(&pem).ok_or_else(|| format!("{path} does not hold certificates in PEM"))
    };
    node.parsed(read).unwrap_or_default()
}
