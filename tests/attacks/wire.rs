//! HTTP as hostile clients speak it: what hyper leaves to us and what it must not let through.

use crate::rig::Rig;
use crate::support::raw;

// GT-18
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_not_an_open_one() {
    let mut rig = Rig::start().await;
    let tokens = rig.login().await;
    let heard = rig.proxy.mcp.heard().len();
    for (line, status) in [
        ("GET http://169.254.169.254/latest HTTP/1.1", 400),
        ("GET http://other.test/mcp HTTP/1.1", 400),
        ("CONNECT other.test:443 HTTP/1.1", 405),
        ("TRACE /mcp HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 404),
    ] {
        let request = format!("{line}\r\nHost: p.test\r\nAuthorization: Bearer {}\r\n\r\n", tokens.access);
        let answer = raw::say(rig.proxy.address(), request.as_bytes()).await;
        assert_eq!(raw::status(&answer), status, "{line}: {answer}");
        assert!(!answer.contains(&tokens.access), "{line} is not echoed");
    }
    assert_eq!(rig.proxy.mcp.heard().len(), heard, "nothing went on");
    rig.verify().await;
}
