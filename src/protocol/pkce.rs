//! Proof Key for Code Exchange, S256 only. RFC 7636 §4; RFC 9700 §2.1.1.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The SHA-256 of a verifier that only the client knows yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeChallenge([u8; 32]);

/// 43 to 128 unreserved characters; consumed by [`CodeChallenge::verify`].
pub struct CodeVerifier(String);

/// Proof that the holder of a code also started the flow; without one no code is redeemed.
#[derive(Debug)]
pub struct PkceVerified(());

impl CodeChallenge {
    /// 43 characters of unpadded base64url, nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        // RFC 7636 §4.2: code-challenge = BASE64URL-ENCODE(SHA256(ASCII(code_verifier)))
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(CodeChallenge)
    }

    /// The challenge for a verifier of ours (towards GitHub).
    pub fn of(verifier: &str) -> Self {
        CodeChallenge(Sha256::digest(verifier).into())
    }

    /// RFC 7636 §4.6: the challenge is recomputed from the verifier and compared, in constant time.
    pub fn verify(&self, verifier: CodeVerifier) -> Option<PkceVerified> {
        let computed: [u8; 32] = Sha256::digest(verifier.0).into();
        bool::from(computed.ct_eq(&self.0)).then_some(PkceVerified(()))
    }

    /// The text that goes on the wire.
    pub fn encoded(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }
}

impl CodeVerifier {
    /// RFC 7636 §4.1: 43*128unreserved.
    pub fn parse(text: &str) -> Option<Self> {
        let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let valid = (43..=128).contains(&text.len()) && text.bytes().all(unreserved);
        valid.then(|| CodeVerifier(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7636 Appendix B
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn the_vector_of_rfc_7636_appendix_b_holds() {
        let challenge = CodeChallenge::parse(CHALLENGE).expect("valid");
        assert_eq!(CodeChallenge::of(VERIFIER), challenge);
        assert_eq!(challenge.encoded(), CHALLENGE);
        assert!(challenge.verify(CodeVerifier::parse(VERIFIER).expect("valid")).is_some());
        let other = VERIFIER.replace('d', "e");
        assert!(challenge.verify(CodeVerifier::parse(&other).expect("valid")).is_none());
    }

    #[test]
    fn malformed_challenges_and_verifiers_do_not_parse() {
        let padded = format!("{CHALLENGE}=");
        for bad in [&CHALLENGE[1..], &padded, &CHALLENGE.replace('-', "+"), &CHALLENGE.replace('E', " "), ""]
        {
            assert!(CodeChallenge::parse(bad).is_none(), "{bad}");
        }
        for bad in [&VERIFIER[1..], &"a".repeat(129), &VERIFIER.replace('d', "+"), ""] {
            assert!(CodeVerifier::parse(bad).is_none(), "{bad}");
        }
    }
}
