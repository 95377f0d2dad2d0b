//! What a message to an MCP server asks for: its method, and the tool when it calls one. Nothing else of it is kept,
//! and never its arguments.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Method and tool of a JSON-RPC request, as the client wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub method: Option<Box<str>>,
    pub tool: Option<Box<str>>,
    /// Not read in the message, but said of it by the client.
    pub is_claimed: bool,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Params<'a>,
}

#[derive(Default)]
struct Params<'a> {
    name: Option<Cow<'a, str>>,
}

// Parameters may be a list, or any nonsense; then there is no name.
impl<'de: 'a, 'a> Deserialize<'de> for Params<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Option<Cow<'de, str>>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("parameters")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut name = None;
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    if key == "name" && name.is_some() {
                        return Err(serde::de::Error::duplicate_field("name"));
                    } else if key == "name" {
                        name = map.next_value::<Text<'de>>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(name)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(None)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(None)
            }
        }
        deserializer.deserialize_any(Visitor).map(|name| Params { name })
    }
}

/// A text, or anything else, which is nothing.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Text(value.as_str().map(|text| Cow::Owned(text.to_owned()))))
    }
}

impl Call {
    /// By headers, of a message that is too large to be read.
    pub fn named(method: Option<&str>, name: Option<&str>) -> Call {
        let tool = name.filter(|_| method == Some("tools/call"));
        Call { method: method.map(cut), tool: tool.map(cut), is_claimed: true }
    }

    /// Reads a message; a batch is many calls (MCP 2025-03-26), an answer is none. What cannot be read, or names its
    /// method twice, is a call without a name: the upstream may read it otherwise, and nothing passes untold.
    pub fn read(body: &[u8]) -> Vec<Call> {
        let is_batch = body.trim_ascii_start().first() == Some(&b'[');
        let messages = match is_batch {
            true => serde_json::from_slice::<Vec<Message<'_>>>(body),
            false => serde_json::from_slice(body).map(|message| vec![message]),
        };
        let Ok(messages) = messages else { return vec![Call::default()] };
        let surplus = (messages.len() > MOST).then(Call::default);
        messages.into_iter().take(MOST).filter_map(Message::call).chain(surplus).collect()
    }
}

impl Message<'_> {
    fn call(self) -> Option<Call> {
        let method = self.method?;
        let tool = self.params.name.filter(|_| method == "tools/call");
        Some(Call { method: Some(cut(&method)), tool: tool.map(|name| cut(&name)), is_claimed: false })
    }
}

/// Names are short; what a client writes in their place must not fill a disk.
fn cut(text: &str) -> Box<str> {
    text.chars().take(LONGEST).collect::<String>().into()
}

/// Calls of a batch that are told apart; the rest is one without a name.
const MOST: usize = 100;
/// Characters.
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, tool: Option<&str>) -> Call {
        Call { method: Some(method.into()), tool: tool.map(Into::into), is_claimed: false }
    }

    #[test]
    fn method_and_tool_are_read_and_nothing_else() {
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"name":"x"},"name":"merge","_meta":{}}}"#;
        assert_eq!(Call::read(body), [call("tools/call", Some("merge"))]);
        assert_eq!(Call::read(br#" {"method":"tools/list"}"#), [call("tools/list", None)]);
        assert_eq!(
            Call::read(br#"{"method":"prompts/get","params":{"name":"p"}}"#),
            [call("prompts/get", None)]
        );
        assert_eq!(Call::read(br#"{"method":"tools/call","params":{"name":7}}"#), [call("tools/call", None)]);
        assert_eq!(Call::read(br#"{"method":"x","params":[1,{"name":"y"}]}"#), [call("x", None)]);
        assert_eq!(
            Call::read(
                br#"[{"method":"a"},{"id":2,"result":{}},{"method":"tools/call","params":{"name":"b"}}]"#
            ),
            [call("a", None), call("tools/call", Some("b"))]
        );
    }

    #[test]
    fn what_is_no_request_is_no_call() {
        for body in ["[]", r#"{"id":1,"result":{}}"#, r#"[{"id":1,"result":{}}]"#] {
            assert_eq!(Call::read(body.as_bytes()), [], "{body}");
        }
    }

    #[test]
    fn what_others_may_read_otherwise_is_a_call_without_a_name() {
        for body in [
            "",
            "{",
            "null",
            "7",
            "\u{0}",
            r#"{"method":7}"#,
            r#"{"method":"ping","method":"tools/call"}"#,
            r#"{"method":"tools/call","params":{"name":"read","name":"drop"}}"#,
            r#"[{"method":"tools/call","params":{"name":"drop"}},7]"#,
        ] {
            assert_eq!(Call::read(body.as_bytes()), [Call::default()], "{body}");
        }
        let many = format!("[{}]", vec![r#"{"method":"x"}"#; MOST + 1].join(","));
        let calls = Call::read(many.as_bytes());
        assert_eq!((calls.len(), calls.last()), (MOST + 1, Some(&Call::default())));
    }

    #[test]
    fn names_are_cut() {
        let long = format!(r#"{{"method":"{}"}}"#, "ü".repeat(10_000));
        assert_eq!(
            Call::read(long.as_bytes())[0].method.as_deref().map(|method| method.chars().count()),
            Some(LONGEST)
        );
    }
}
