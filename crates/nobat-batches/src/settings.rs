//! What an operator may set about files.

use std::path::PathBuf;

use nobat_core::{Error, Result};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// Where uploaded files are kept, and how much of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileSettings {
    /// The folder of the files, which all gateways of a deployment share; empty: `files`
    /// in the folder of the embedded store, and none around Redis.
    pub folder: PathBuf,
    /// The bucket of the files instead, `s3://BUCKET/PREFIX`, of S3 or of what speaks as it does.
    pub bucket: String,
    /// Where that is; empty: as `AWS_ENDPOINT_URL` says, else at AWS.
    pub endpoint: String,
    /// Its region; empty: as `AWS_REGION` says, else `us-east-1`.
    pub region: String,
    /// A file with the keys to it, in the form of AWS's `credentials`; empty: those of the environment.
    pub credentials_file: PathBuf,
    /// Most bytes of one file.
    pub max_file_bytes: u64,
    /// Most bytes of all files together.
    pub max_bytes: u64,
    /// Most files.
    pub max_files: usize,
    /// How long a file, or the record of a batch that has ended, is kept, in seconds.
    pub keep_s: u32,
}

impl Default for FileSettings {
    fn default() -> FileSettings {
        FileSettings {
            folder: PathBuf::new(),
            bucket: String::new(),
            endpoint: String::new(),
            region: String::new(),
            credentials_file: PathBuf::new(),
            max_file_bytes: 200 << 20,
            max_bytes: 10 << 30,
            max_files: 10_000,
            keep_s: 30 * 86_400,
        }
    }
}

impl FileSettings {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        if self.max_file_bytes > self.max_bytes {
            return Err(Error::invalid(
                "gateway.files.max_file_bytes is over gateway.files.max_bytes: no file of that size could come in; raise \
                 max_bytes, or lower max_file_bytes",
            ));
        }
        if self.max_file_bytes == 0 || self.max_files == 0 || self.keep_s == 0 {
            return Err(Error::invalid(
                "gateway.files.max_file_bytes, max_files and keep_s take 1 or more; to have no files around Redis leave \
                 gateway.files.folder empty",
            ));
        }
        if self.bucket.is_empty() {
            let of_bucket = [
                ("endpoint", self.endpoint.is_empty()),
                ("region", self.region.is_empty()),
                ("credentials_file", self.credentials_file.as_os_str().is_empty()),
            ];
            return match of_bucket.into_iter().find(|(_, is_empty)| !is_empty) {
                Some((key, _)) => Err(Error::invalid(format!(
                    "gateway.files.{key} is set and gateway.files.bucket is not; set both, or neither"
                ))),
                None => Ok(()),
            };
        }
        place(&self.bucket)?;
        if !self.folder.as_os_str().is_empty() {
            return Err(Error::invalid(
                "gateway.files.folder and gateway.files.bucket are both set; files are in one of them",
            ));
        }
        if !(self.endpoint.is_empty() || self.endpoint.starts_with("http://") || self.endpoint.starts_with("https://"))
        {
            let shown = nobat_core::clip(&self.endpoint);
            return Err(Error::invalid(format!(
                "gateway.files.endpoint is `{shown}`; it takes an address that begins with https:// or http://"
            )));
        }
        Ok(())
    }
}

/// Takes `s3://BUCKET/PREFIX` apart.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn place(text: &str) -> Result<(&str, Path)> {
    let refuse = |why: &str| {
        let shown = nobat_core::clip(text);
        Error::invalid(format!("gateway.files.bucket is `{shown}`, {why}; it takes s3://BUCKET or s3://BUCKET/PREFIX"))
    };
    let rest = text.strip_prefix("s3://").ok_or_else(|| refuse("which does not begin with s3://"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if bucket.len() < 3 || bucket.len() > 63 || !bucket.bytes().all(is_name) {
        return Err(refuse("whose bucket is no name of 3 to 63 small letters, digits, points and hyphens"));
    }
    let prefix = Path::parse(prefix).map_err(|_| refuse("whose prefix is no path"))?;
    Ok((bucket, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_taken_apart_and_what_is_none_is_refused() {
        assert_eq!(place("s3://my-bucket").expect("a bucket"), ("my-bucket", Path::default()));
        assert_eq!(place("s3://my-bucket/").expect("a bucket"), ("my-bucket", Path::default()));
        assert_eq!(place("s3://my-bucket/a/b").expect("a bucket"), ("my-bucket", Path::from("a/b")));
        for bad in ["", "my-bucket", "https://my-bucket", "s3://", "s3://ab", "s3://My Bucket", "s3://my-bucket/a//b"] {
            assert!(place(bad).expect_err(bad).message.contains("s3://BUCKET"), "{bad}");
        }
    }

    #[test]
    fn settings_of_buckets_that_contradict_each_other_are_refused_by_name() {
        let bucket = || FileSettings { bucket: "s3://my-bucket".into(), ..FileSettings::default() };
        bucket().validate().expect("a bucket");
        for (settings, says) in [
            (FileSettings { bucket: String::new(), region: "eu".into(), ..bucket() }, "gateway.files.region is set"),
            (FileSettings { folder: "/files".into(), ..bucket() }, "both set"),
            (FileSettings { endpoint: "minio:9000".into(), ..bucket() }, "`minio:9000`"),
            (FileSettings { bucket: "minio".into(), ..bucket() }, "`minio`"),
        ] {
            let refused = settings.validate().expect_err(says);
            assert!(refused.message.contains(says), "{refused}");
        }
    }
}
