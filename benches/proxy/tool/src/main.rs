//! The upstream and the clients of `benches/proxy/run` that Python would be too slow for. All figures are printed as
//! `name=value`, one line each time something is asked.
//!
//! ```text
//! load upstream                                          prints port=N, serves until it is killed
//! load greet ADDRESS TEMPLATE TOKENS OUT                 one initialize per token; OUT gets "token session" lines
//! load pace ADDRESS TEMPLATE LOGINS RATE CONNECTIONS SECONDS   calls at fixed moments; their delay
//! load streams ADDRESS TEMPLATE LOGINS COUNT             opens event streams; standard input says mark or stop
//! load start PORT PROGRAM [ARGUMENT…]                    from exec to the first 200 of /healthz
//! ```
//!
//! A template is a whole request as text, with `TOKEN` and `SESSION` where those of a login go.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

mod clients;
mod pace;
mod start;
mod streams;
mod upstream;

use std::error::Error;
use std::io;

/// Whatever goes wrong ends the measurement.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments[..] {
        ["upstream"] => runtime.block_on(upstream::serve()),
        ["greet", to, template, tokens, out] => runtime.block_on(clients::greet(to, template, tokens, out)),
        ["pace", to, template, logins, rate, connections, seconds] => {
            pace::run(to, template, logins, rate.parse()?, connections.parse()?, seconds.parse()?)
        }
        ["streams", to, template, logins, count] => {
            runtime.block_on(streams::run(to, template, logins, count.parse()?))
        }
        ["start", port, program, ref rest @ ..] => start::run(port.parse()?, program, rest),
        _ => Err(io::Error::other("unknown arguments; main.rs lists them").into()),
    }
}

/// The middle and the 99th of a hundred, in microseconds; nothing is thrown away.
pub fn percentiles(mut nanos: Vec<u64>) -> String {
    nanos.sort_unstable();
    let at = |share: f64| match nanos.len() {
        0 => 0.0,
        length => nanos[((length as f64 * share) as usize).min(length - 1)] as f64 / 1_000.0,
    };
    format!("count={} p50_us={:.1} p99_us={:.1}", nanos.len(), at(0.5), at(0.99))
}
