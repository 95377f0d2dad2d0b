//! The form of the database: made by whoever comes first, under a lock, and known by its number.
//!
//! A database says which schema it has, and the oldest that its programs may know: version N goes on serving beside
//! N + 1 as long as nothing changed that it could not live with.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::failed;
use crate::store::{StoreError, Unfit};

/// Brings the database up to date, or finds that it is beyond us.
pub(super) async fn settle(client: &mut Client) -> Result<Result<(), Unfit>, StoreError> {
    // First, because a role that may not make tables can serve all the same.
    if let Some(found) = found(client).await?
        && found.schema >= SCHEMA
    {
        return Ok(found.fitness());
    }
    let transaction = client.transaction().await.map_err(|error| failed(&error))?;
    transaction.batch_execute(LOCK).await.map_err(|error| failed(&error))?;
    transaction.batch_execute(MIGRATE).await.map_err(|error| failed(&error))?;
    transaction.commit().await.map_err(|error| failed(&error))?;
    let found = found(client).await?;
    found.map(Found::fitness).ok_or_else(|| StoreError::new("the schema was made, and is not there"))
}

/// What a database says of itself.
struct Found {
    schema: i64,
    oldest: i64,
}

impl Found {
    fn fitness(self) -> Result<(), Unfit> {
        match self.oldest > SCHEMA {
            true => Err(Unfit::Newer { found: self.schema, oldest: self.oldest, known: SCHEMA }),
            false => Ok(()),
        }
    }
}

async fn found(client: &Client) -> Result<Option<Found>, StoreError> {
    match client.query_typed("SELECT version, oldest FROM mcp_auth_proxy_schema", &[]).await {
        Ok(rows) => rows
            .first()
            .map(|row| Ok(Found { schema: row.try_get(0)?, oldest: row.try_get(1)? }))
            .transpose()
            .map_err(|error: tokio_postgres::Error| failed(&error)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

const SCHEMA: i64 = 1;
/// Of the transaction, so that a pooler in transaction mode may stand in between. The number is ours ("mapx").
const LOCK: &str = "SELECT pg_advisory_xact_lock(1835102328)";
const MIGRATE: &str = r#"
    CREATE TABLE IF NOT EXISTS mcp_auth_proxy_records (
        key text COLLATE "C" PRIMARY KEY, bytes bytea NOT NULL, version bigint NOT NULL,
        owner text COLLATE "C" NOT NULL, expires bigint NOT NULL
    );
    CREATE INDEX IF NOT EXISTS mcp_auth_proxy_records_by_owner ON mcp_auth_proxy_records (owner) WHERE owner <> '';
    CREATE INDEX IF NOT EXISTS mcp_auth_proxy_records_by_expiry ON mcp_auth_proxy_records (expires);
    CREATE TABLE IF NOT EXISTS mcp_auth_proxy_schema (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL, oldest bigint NOT NULL
    );
    INSERT INTO mcp_auth_proxy_schema (version, oldest) VALUES (1, 1) ON CONFLICT (one) DO NOTHING;"#;
