//! `metrics:`, `audit:` and `traces:`: what operators want to see, and where.

use std::net::SocketAddr;
use std::path::PathBuf;

use url::Url;

use super::raw::Node;
use crate::telemetry::audit::Destination;
use crate::telemetry::traces::Settings;

pub(super) fn metrics(node: &Node<'_>) -> Option<SocketAddr> {
    node.parsed(|text| {
        let problem = format!("expected an address and a port like 127.0.0.1:9464, got {text:?}");
        text.replace("localhost:", "127.0.0.1:").parse().map_err(|_| problem)
    })
}

pub(super) fn audit(node: &Node<'_>) -> Option<Destination> {
    node.parsed(|text| match text {
        "" => Err("expected a file, or stdout"),
        "stdout" => Ok(Destination::Stdout),
        path => Ok(Destination::File(PathBuf::from(path))),
    })
}

pub(super) fn traces(node: &Node<'_>) -> Option<Settings> {
    if !node.exists() || !node.only(&["endpoint", "sample", "service"]) {
        return None;
    }
    let (endpoint, sample, service) = (node.get("endpoint"), node.get("sample"), node.get("service"));
    endpoint.required();
    let share = sample.parsed(|text| match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("expected a share from 0 to 1, got {text:?}")),
    });
    let service = service.text().unwrap_or_else(|| "mcp-auth-proxy".to_owned());
    if cfg!(not(feature = "otlp")) {
        node.problem("this program was built without the feature otlp");
    }
    Some(Settings { endpoint: endpoint.parsed(collector)?, sample: share.unwrap_or(1.0), service })
}

fn collector(text: &str) -> Result<String, String> {
    let problem = || format!("expected a URL like http://127.0.0.1:4318/v1/traces, got {text:?}");
    let url = Url::parse(text).map_err(|_| problem())?;
    let fits =
        matches!(url.scheme(), "http" | "https") && url.password().is_none() && url.username().is_empty();
    // Whatever fails there may be told with its address.
    if fits && url.query().is_none() { Ok(text.to_owned()) } else { Err(problem()) }
}
