//! A bucket of S3, or of a server that speaks as it does, by the settings.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nobat_core::{Error, Result};
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::client::CredentialProvider;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::settings::{FileSettings, place};

/// A request, its retries included, takes no longer than a batch is its carrier's.
const RETRIES: Duration = Duration::from_secs(10);
/// One request.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTS: Duration = Duration::from_secs(5);

/// The bucket that is set, and the prefix in it. Keys, region and endpoint that are not set are
/// those of the environment, by AWS's names.
///
/// # Errors
/// `invalid_parameter`, naming the setting.
pub(super) fn open(settings: &FileSettings) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let (bucket, prefix) = place(&settings.bucket)?;
    let client = ClientOptions::new().with_timeout(PATIENCE).with_connect_timeout(CONNECTS);
    let retry = RetryConfig { max_retries: 6, retry_timeout: RETRIES, ..RetryConfig::default() };
    let mut builder =
        AmazonS3Builder::from_env().with_bucket_name(bucket).with_client_options(client).with_retry(retry);
    // Objects are deleted one by one: not all that speak as S3 does know another way.
    builder = builder.with_disable_bulk_delete(true);
    if !settings.region.is_empty() {
        builder = builder.with_region(&settings.region);
    }
    if !settings.endpoint.is_empty() {
        builder = builder.with_endpoint(&settings.endpoint).with_allow_http(settings.endpoint.starts_with("http://"));
    }
    if !settings.credentials_file.as_os_str().is_empty() {
        let file = settings.credentials_file.clone();
        read_keys(&file)?;
        builder = builder.with_credentials(Arc::new(KeyFile { file }));
    }
    let refuse = |error| Error::invalid(format!("gateway.files.bucket `{}` cannot be used: {error}", settings.bucket));
    Ok((Arc::new(builder.build().map_err(refuse)?), prefix))
}

/// Keys in a file, read for each request: whoever renews them writes them anew.
#[derive(Debug)]
struct KeyFile {
    file: PathBuf,
}

#[async_trait]
impl CredentialProvider for KeyFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let keys = read_keys(&self.file);
        keys.map(Arc::new).map_err(|error| object_store::Error::Generic { store: "S3", source: error.message.into() })
    }
}

/// Reads a file of the form that AWS's tools share; of several profiles the first.
fn read_keys(file: &FilePath) -> Result<AwsCredential> {
    let refuse = |why: &str| Error::invalid(format!("gateway.files.credentials_file `{}` {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| refuse(&format!("cannot be read: {error}")))?;
    let lines = text.lines().map(str::trim);
    let value = |key: &str| {
        let mut pairs = lines.clone().filter_map(|line| line.split_once('='));
        pairs.find(|(own, _)| own.trim() == key).map(|(_, value)| value.trim().to_owned())
    };
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token: value("aws_session_token") }),
        _ => Err(refuse("does not hold the lines `aws_access_key_id = …` and `aws_secret_access_key = …`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_a_file_of_the_usual_form() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("credentials");
        std::fs::write(&file, "[default]\naws_access_key_id = AKIA\naws_secret_access_key=s3cr=t\n").expect("writes");
        let keys = read_keys(&file).expect("keys");
        assert_eq!((keys.key_id.as_str(), keys.secret_key.as_str(), keys.token), ("AKIA", "s3cr=t", None));
        std::fs::write(&file, "aws_access_key_id = AKIA\n").expect("writes");
        assert!(read_keys(&file).expect_err("half of it").message.contains("aws_secret_access_key"));
        assert!(read_keys(&folder.path().join("none")).expect_err("no file").message.contains("cannot be read"));
    }
}
