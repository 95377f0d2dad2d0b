//! The end of a credential that nobody uses any more, here and at GitHub.

use tokio::task::JoinHandle;
use tracing::warn;

use super::pair::TokenPair;
use super::{Credentials, Inner};
use crate::protocol::family::Family;
use crate::store::people::CredentialRecord;
use crate::store::{Replaced, StoreError, Stored};

/// A credential as it was when somebody looked.
pub struct Seen(Stored<CredentialRecord>);

/// GitHub being told; who ends next may wait for it, and hear whether it took everything.
pub type Telling = JoinHandle<bool>;

impl Credentials {
    /// The credential as it stands, for [`Credentials::discard`].
    pub async fn look(&self, key: &str) -> Result<Option<Seen>, StoreError> {
        Ok(self.0.people.credential(key).await?.map(Seen))
    }

    /// Forgets a credential that no family used after it was seen, at GitHub too. `None` when something happened to
    /// it since, a new login maybe: then it stays.
    pub async fn discard(&self, key: &str, seen: &Seen) -> Result<Option<Telling>, StoreError> {
        if self.0.people.forget_credential(key, seen.0.version).await? == Replaced::Changed {
            return Ok(None);
        }
        let (inner, pair) = (self.0.clone(), self.0.pair(key, &seen.0.value));
        Ok(Some(self.0.side.spawn(async move { inner.delete_all(pair).await })))
    }

    /// Forgets the credential of a family that has ended, unless another one uses it.
    ///
    /// A login that happens meanwhile has its family first and its credential then: whichever of the two we did not
    /// see, the credential that we did see is not the same any more.
    pub async fn discard_if_unused(&self, family: &Family) -> Result<Option<Telling>, StoreError> {
        for _ in 0..DISCARD_TRIES {
            let Some(seen) = self.look(&family.credential).await? else { break };
            let others = self.0.families.of_person(family.person).await?;
            if others.iter().any(|(_, other)| other.credential == family.credential) {
                break;
            }
            if let Some(telling) = self.discard(&family.credential, &seen).await? {
                return Ok(Some(telling));
            }
        }
        Ok(None)
    }
}

impl Inner {
    /// Every token that GitHub gave for a credential which nobody uses any more. Whether all are gone.
    pub(super) async fn delete_all(&self, pair: Option<TokenPair>) -> bool {
        let mut all = true;
        for token in pair.iter().flat_map(TokenPair::all) {
            if let Err(error) = self.github.delete_token(&token.into()).await {
                warn!(%error, "an unused GitHub token could not be revoked");
                all = false;
            }
        }
        all
    }
}

/// A check that notes its result in the record gets in the way once, not again and again.
const DISCARD_TRIES: u32 = 3;
