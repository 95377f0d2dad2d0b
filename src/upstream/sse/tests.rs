use std::sync::Arc;

use super::*;
use crate::seal::{KeyRing, MasterKey};
use crate::upstream::session::{Binding, Seals};
use crate::upstream::target::Target;

fn keys() -> Arc<KeyRing> {
    Arc::new(KeyRing::new(&[MasterKey::new(Box::new([1; 32]))]).expect("one key"))
}

fn rewriter() -> Rewriter {
    let uri = "http://127.0.0.1:9000/sse".parse().expect("a URL");
    let target = Target::new(&uri, || unreachable!("no TLS")).expect("valid");
    let seals = Seals::new(&keys(), "https://p.test/legacy");
    Rewriter::new(Binding::new(&seals, 42).endpoints(&target, None, "/legacy"))
}

/// Feeds the text in pieces of every size and returns what came out, which must not depend on the size.
fn passed(text: &str) -> Result<String, Cut> {
    let whole = rewriter().pass(Bytes::copy_from_slice(text.as_bytes()));
    for size in 1..text.len() {
        let mut rewriter = rewriter();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            let piece = Bytes::copy_from_slice(piece);
            match if rewriter.is_done() { Ok(piece) } else { rewriter.pass(piece) } {
                Ok(data) => out.extend_from_slice(&data),
                Err(cut) => return whole.map(|_| panic!("cut {cut:?} in pieces of {size} only")),
            }
        }
        out.extend_from_slice(&rewriter.into_rest());
        assert_eq!(whole.as_deref(), Ok(&out[..]), "pieces of {size}");
    }
    whole.map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
}

#[test]
fn the_endpoint_event_names_our_path_and_opens_to_the_upstreams() {
    for text in [
        "event: endpoint\ndata: /messages/?session_id=abc\n\n",
        "event: endpoint\r\ndata: /messages/?session_id=abc\r\n\r\n",
        ": hello\n\nevent:endpoint\ndata:http://127.0.0.1:9000/messages/?session_id=abc\n\n",
        "data: messages/?session_id=abc\nevent: endpoint\n\n",
        "id: 7\revent: endpoint\rdata: /messages/\rdata: ?session_id=abc\r\r",
        "\u{feff}event: endpoint\ndata: /messages/?session_id=abc\n\n",
        // Without data nothing reaches the client: the first event is the one behind it.
        "event: endpoint\n\nid: 1\n\nevent: endpoint\ndata: /messages/?session_id=abc\n\n",
    ] {
        let out = passed(text).expect("rewritten");
        let (before, ours) = out.split_once("/legacy?endpoint=").expect("our path");
        let (sealed, after) = ours.split_at(ours.find(['\r', '\n']).expect("a line end"));
        let (first, last) = (text.find("data:").expect("data"), text.rfind("session_id=abc").expect("data"));
        assert_eq!(before.trim_end(), text[..first + 5].trim_end(), "what is before it stays");
        assert_eq!(after, &text[last + 14..], "what is behind it stays");
        let opened = Binding::new(&Seals::new(&keys(), "https://p.test/legacy"), 42).open_endpoint(sealed);
        assert_eq!(opened.expect("opens").path.as_str(), "/messages/?session_id=abc");
        for (resource, person) in [("https://p.test/legacy", 43), ("https://p.test/other", 42)] {
            assert!(
                Binding::new(&Seals::new(&keys(), resource), person).open_endpoint(sealed).is_none(),
                "bound to both"
            );
        }
    }
}

#[test]
fn an_endpoint_elsewhere_cuts_the_stream() {
    for uri in ["http://evil.test/m", "//evil.test/m", "http://127.0.0.1:9001/m", "https://127.0.0.1:9000/m"]
    {
        assert_eq!(passed(&format!("event: endpoint\ndata: {uri}\n\n")), Err(Cut::ForeignEndpoint), "{uri}");
    }
}

#[test]
fn other_streams_pass_byte_for_byte() {
    for text in [
        "event: message\ndata: {\"a\": 1}\n\nevent: endpoint\ndata: /late\n\n",
        "id: 1\nretry: 3000\ndata: \n\n: comment\n\n",
        "\n\u{feff}event: endpoint\ndata: /no-field-of-that-name\n\n",
        "event: endpoint\nevent: message\ndata: /x\n\n",
        "data: x\r\n\r\n",
    ] {
        assert_eq!(passed(text).as_deref(), Ok(text));
    }
    let long = format!("data: {}\n", "x".repeat(MAX_HELD));
    assert_eq!(
        rewriter().pass(Bytes::from(long.clone())).as_deref(),
        Ok(long.as_bytes()),
        "no event is too long"
    );
}

#[test]
fn comments_go_between_events_only() {
    let between = |frames: &[&str]| {
        let mut tail = Tail::default();
        frames.iter().for_each(|frame| tail.note(frame.as_bytes()));
        tail.is_between_events()
    };
    for frames in [
        &[][..],
        &["data: x\n\n"],
        &["data: x\n", "\n"],
        &["data: x\r\n\r\n"],
        &["data: x", "\n\n"],
        &["data: x\r", "\n", "\r", "\n"],
        &["data: x\r\n", "\r\n"],
        &["data: x\r\r"],
        &["data: x\r", "\r\n"],
    ] {
        assert!(between(frames), "{frames:?}");
    }
    for frames in [
        &["data: x"][..],
        &["data: x\n"],
        &["data: x\r\n"],
        &["data: x\n\ndata: y"],
        &["\n\nx", "\n"],
        &["data: x", "\r\n"],
        &["data: x\r", "\n"],
        &["data: x\r\n", "\r"],
    ] {
        assert!(!between(frames), "{frames:?}");
    }
}
