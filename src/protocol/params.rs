//! Request parameters: form-encoded, each at most once, empty means absent.
//!
//! RFC 6749 §3.1, §3.2, Appendix B.

use url::form_urlencoded;

/// Decoded parameters of one request.
#[derive(Debug, Default)]
pub struct Params(Vec<(String, String)>);

/// Why a query or a form is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// RFC 6749 §3.1: parameters MUST NOT be included more than once.
    #[error("the parameter {0} appears more than once")]
    Repeated(String),
    /// More parameters than any client sends.
    #[error("too many parameters")]
    TooMany,
    /// A percent-encoded sequence that is not UTF-8, or a control character.
    #[error("a parameter is not valid text")]
    NotText,
}

impl Params {
    /// Parses a query string or an `application/x-www-form-urlencoded` body.
    pub fn parse(text: &[u8]) -> Result<Self, ParamsError> {
        if text.iter().filter(|byte| **byte == b'&').count() >= MAX_PARAMS {
            return Err(ParamsError::TooMany);
        }
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text) {
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') || value.contains('\0') {
                return Err(ParamsError::NotText);
            }
            if params.iter().any(|(known, _)| *known == name) {
                return Err(ParamsError::Repeated(name.chars().take(40).collect()));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Params(params))
    }

    /// RFC 6749 §3.1: parameters sent without a value MUST be treated as if they were omitted.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// The value even when it is empty: an empty `client_secret` is a secret that is wrong.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

const MAX_PARAMS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_parameter_refuses_the_request() {
        assert_eq!(Params::parse(b"a=1&%61=2").unwrap_err(), ParamsError::Repeated("a".into()));
        assert_eq!(Params::parse(&b"a&".repeat(100)).unwrap_err(), ParamsError::TooMany);
        assert_eq!(Params::parse(b"a=%ff").unwrap_err(), ParamsError::NotText);
        assert_eq!(Params::parse(b"a=x%00").unwrap_err(), ParamsError::NotText);
    }

    #[test]
    fn empty_is_absent_and_odd_spellings_are_other_parameters() {
        let params = Params::parse(b"scope=&redirect_uri[]=x&a=b+c%20d&x%5Fy=1").expect("valid");
        assert_eq!(params.get("scope"), None);
        assert_eq!(params.raw("scope"), Some(""));
        assert_eq!(params.get("redirect_uri"), None);
        assert_eq!(params.get("a"), Some("b c d"));
        assert_eq!(params.get("x_y"), Some("1"));
    }
}
